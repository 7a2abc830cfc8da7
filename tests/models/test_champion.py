"""Starting from the champion: when, and that rows follow their tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.building import build_model, load_model, save_model
from atspeed_core.models.champion import choose_start, read_origin
from atspeed_core.models.inherited import build_from
from atspeed_core.models.tokenizer import build_tokenizer, code_token_ids
from tests.complete_params import Architecture
from tests.tiny_models import make_catalog

SHAPE = Architecture(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, dropout=0.5)
COMMIT = "c0ffee"
BEFORE = make_catalog([(0, 0), (0, 1), (2, 0), (2, 3)])
NOW = Catalog.from_identifiers(
    {"0": ["<a_0>", "<b_0>"], "2": ["<a_2>", "<b_0>"], "3": ["<a_2>", "<b_3>"], "9": ["<a_1>", "<b_2>"]}
)


def save(folder: Path, catalog: Catalog, shape: Architecture = SHAPE) -> PreTrainedModel:
    tokenizer = build_tokenizer(catalog.code_tokens)
    model = build_model(shape, tokenizer, seed=7)
    save_model(folder, model, tokenizer, instruction="")
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_rows_follow_their_tokens_and_all_other_weights_are_copied(tmp_path: Path, tied: bool) -> None:
    shape = SHAPE.model_copy(update={"tie_embeddings": tied})
    earlier = save(tmp_path / "model", BEFORE, shape)
    before, now = build_tokenizer(BEFORE.code_tokens), build_tokenizer(NOW.code_tokens)
    inherited = build_from(tmp_path / "model", shape, now, seed=1)
    for old, new in (
        (earlier.get_input_embeddings(), inherited.get_input_embeddings()),
        (earlier.get_output_embeddings(), inherited.get_output_embeddings()),
    ):
        tokens = ["<pad>", "<bos>", "<a_0>", "<a_2>", "<b_0>", "<b_3>"]
        expected = old.weight[code_token_ids(before, tokens)]
        assert torch.equal(new.weight[code_token_ids(now, tokens)], expected)
        level = old.weight[code_token_ids(before, ["<b_0>", "<b_1>", "<b_3>"])]
        torch.testing.assert_close(new.weight[code_token_ids(now, ["<b_2>"])[0]], level.mean(0))
    old_state = earlier.state_dict()
    others = {
        name: w for name, w in inherited.state_dict().items() if "embed_tokens" not in name and "lm_head" not in name
    }
    assert len(others) > 5
    assert all(torch.equal(weight, old_state[name]) for name, weight in others.items())
    assert (inherited.get_input_embeddings().weight is inherited.get_output_embeddings().weight) is tied


def test_known_tokens_are_scored_as_before(tmp_path: Path) -> None:
    earlier = save(tmp_path / "model", BEFORE).eval()
    before, now = build_tokenizer(BEFORE.code_tokens), build_tokenizer(NOW.code_tokens)
    inherited = build_from(tmp_path / "model", SHAPE, now, seed=1).eval()
    prompt, scored = ["<bos>", "<a_2>", "<b_3>"], ["<a_0>", "<a_2>", "<b_0>"]
    logits = [
        model(torch.tensor([code_token_ids(tokenizer, prompt)])).logits[0, -1, code_token_ids(tokenizer, scored)]
        for model, tokenizer in ((earlier, before), (inherited, now))
    ]
    torch.testing.assert_close(logits[0], logits[1])


def champion(folder: Path, **origin: Any) -> Path:
    save(folder / "target", BEFORE)
    BEFORE.save(folder / "identifiers" / "identifiers.json")
    write_json(folder / "origin.json", {"commit": COMMIT, "base_model": None, **origin})
    return folder


def test_a_champion_that_fits_is_the_start(tmp_path: Path) -> None:
    start = choose_start(champion(tmp_path), "target", NOW, architecture=SHAPE)
    assert (start.folder, start.origin) == (tmp_path / "target", COMMIT)
    other_dropout = SHAPE.model_copy(update={"dropout": 0.0})
    assert choose_start(tmp_path, "target", NOW, architecture=other_dropout).folder == tmp_path / "target"


@pytest.mark.parametrize("change", ["hidden_size", "num_layers", "num_heads", "intermediate_size", "tie_embeddings"])
def test_another_shape_starts_from_scratch(tmp_path: Path, change: str) -> None:
    shapes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 16, "tie_embeddings": False}
    other = SHAPE.model_copy(update={change: shapes[change]})
    start = choose_start(champion(tmp_path), "target", NOW, architecture=other)
    assert (start.folder, start.origin) == (None, "scratch")
    assert "the champion's target has another shape" in start.reason
    assert start.reason.endswith(f"now {shapes[change]}")


def test_other_identifiers_start_from_scratch(tmp_path: Path) -> None:
    champion(tmp_path)
    swapped = make_catalog([(0, 1), (0, 0), (2, 0), (2, 3)])
    foreign = Catalog.from_identifiers({"x": ["<a_0>", "<b_0>"]})
    for catalog in (swapped, foreign):
        start = choose_start(tmp_path, "target", catalog, architecture=SHAPE)
        assert start.folder is None
        assert start.reason == "the champion's items have other identifiers now"


def test_a_missing_part_starts_from_scratch(tmp_path: Path) -> None:
    start = choose_start(champion(tmp_path), "drafts/sft", NOW, architecture=SHAPE)
    assert (start.folder, start.reason) == (None, "the champion has no drafts/sft")


def test_a_base_model_has_to_be_the_champions_own(tmp_path: Path) -> None:
    champion(tmp_path, base_model="base")
    assert choose_start(tmp_path, "target", NOW, architecture=None, base_model="base").folder == tmp_path / "target"
    other = choose_start(tmp_path, "target", NOW, architecture=None, base_model="other")
    assert (other.folder, other.reason) == (None, "the champion's base_model is base, not other")


def test_drafts_have_a_base_model_of_their_own(tmp_path: Path) -> None:
    champion(tmp_path, base_model="7b", draft_base_model="68m")
    save(tmp_path / "drafts" / "sft", BEFORE)
    start = choose_start(tmp_path, "drafts/sft", NOW, architecture=None, base_model="68m")
    assert start.folder == tmp_path / "drafts" / "sft"
    other = choose_start(tmp_path, "drafts/sft", NOW, architecture=None, base_model="7b")
    assert (other.folder, other.reason) == (None, "the champion's base_model is 68m, not 7b")


@pytest.mark.parametrize("origin", [None, {"commit": None}])
def test_no_champion_is_a_start_from_scratch(tmp_path: Path, origin: dict[str, Any] | None) -> None:
    if origin:
        write_json(tmp_path / "origin.json", origin)
    start = choose_start(tmp_path, "target", NOW, architecture=SHAPE)
    assert (start.folder, start.origin) == (None, "scratch")


def test_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "origin.json").write_text("{")
    with pytest.raises(UserError, match=r"origin.json: damaged; run the warm_start stage again"):
        read_origin(tmp_path)
    champion(tmp_path)
    (tmp_path / "target" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"target: no usable model there"):
        choose_start(tmp_path, "target", NOW, architecture=SHAPE)
    (tmp_path / "target" / "config.json").unlink()
    with pytest.raises(UserError, match=r"target: no usable model there"):
        load_model(tmp_path / "target")
