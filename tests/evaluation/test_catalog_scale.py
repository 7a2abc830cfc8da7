"""The benchmark of the trie: synthetic codes, the step that is timed, and what the command writes."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from typer.testing import CliRunner

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.evaluation.catalog_scale import (
    CatalogSettings,
    CatalogShape,
    decode_step,
    num_bytes,
    random_model,
    synthetic_codes,
    trie_step,
)
from atspeed_core.files import read_json
from atspeed_core.identifiers.trie import build_trie
from tasks import bench_catalog

BEAUTY = CatalogShape(12_023, (91, 256, 256, 256))
BEAUTY_PREFIXES = [91, 6539, 11172, 12023]  # of the published identifiers
TINY_MODEL = LlamaConfig(
    vocab_size=50,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=16,
    max_position_embeddings=64,
)
TINY = CatalogSettings(
    catalogs=(CatalogShape(200, (3, 8, 8, 8)), CatalogShape(3000, (8, 8, 8, 8))),
    model=TINY_MODEL,
    prompt_length=6,
    ks=(2, 5),
    batches=(1, 3),
    repetitions=1,
)


def test_codes_are_shaped_like_the_published_ones():
    codes = synthetic_codes(BEAUTY, seed=0)
    assert build_trie(codes).prefixes_by_depth() == pytest.approx(BEAUTY_PREFIXES, rel=0.07)
    starts = np.cumsum((0, *BEAUTY.widths))
    assert (codes >= starts[:-1]).all()
    assert (codes < starts[1:]).all()


@pytest.mark.parametrize("shape", [BEAUTY, CatalogShape(100_000, (256, 256, 256, 256))])
def test_an_item_takes_few_bytes_on_the_device(shape):
    trie = DeviceTrie.build(build_trie(synthetic_codes(shape, seed=0)))
    assert 2 * shape.num_items < num_bytes(trie) < 100 * shape.num_items


def test_the_step_keeps_the_best_children_of_all_beams():
    codes = synthetic_codes(TINY.catalogs[0], seed=0)
    trie = DeviceTrie.build(build_trie(codes))
    rng = np.random.default_rng(1)
    nodes = torch.from_numpy(rng.integers(*trie.depth_start[2:4], size=(2, 3)))
    scores = torch.from_numpy(rng.normal(size=(2, 3))).float()
    log_probs = torch.from_numpy(rng.normal(size=(2, 3, 27))).float()
    beams, best = trie_step(trie, nodes, scores, log_probs, depth=2, k=4)
    for row in range(2):
        every = torch.arange(trie.num_nodes)
        found = [
            (float(scores[row, beam] + log_probs[row, beam, trie.codes(child)]), int(child))
            for beam, node in enumerate(nodes[row])
            for child in every[trie.parents(every) == node]
        ]
        expected = sorted(found, key=lambda pair: -pair[0])[:4]
        assert [node for node in beams[row].tolist() if node != NO_NODE] == [node for _, node in expected]
        assert best[row, : len(expected)].tolist() == pytest.approx([score for score, _ in expected])


@torch.inference_mode()
def test_every_run_of_the_models_step_starts_from_the_prompt_alone():
    model = random_model(TINY_MODEL, seed=0)
    step = decode_step(model, 6, k=3, batch=2)
    whole = model(input_ids=torch.zeros(2, 9, dtype=torch.long)).logits[:, 6:]
    for _ in range(3):
        torch.testing.assert_close(step(), whole)


def test_the_command_writes_every_combination(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_catalog, "QUICK", TINY)
    outcome = CliRunner().invoke(bench_catalog.app, ["--quick", "--device", "cpu"])
    assert outcome.exit_code == 0, outcome.output
    result = read_json(tmp_path / "results/bench/catalog-cpu-quick.json")
    assert {(s["num_items"], s["k"], s["batch"]) for s in result["steps"]} == {
        (shape.num_items, k, batch) for shape in TINY.catalogs for k in TINY.ks for batch in TINY.batches
    }
    for step in result["steps"]:
        assert len(step["trie_step_us"]) == 4
        assert step["largest_share"] == pytest.approx(max(step["trie_step_us"]) / step["decode_step_us"])
    assert [facts["num_items"] for facts in result["catalogs"]] == [200, 3000]
    assert result["device"]["dtype"] == "float32"
    assert "3,000" in outcome.output


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_a_device_that_is_not_there_ends_with_one_line(device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = CliRunner().invoke(bench_catalog.app, ["--device", device])
    assert outcome.exit_code == 2
    assert f"--device {device}" in outcome.output
    assert not list(tmp_path.iterdir())
