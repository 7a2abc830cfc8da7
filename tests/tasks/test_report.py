"""The report on invented results: what it contains, that it opens offline, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from atspeed_core.errors import UserError
from atspeed_core.metrics import METRICS
from atspeed_core.settings import Params
from tasks import report
from tests.complete_params import completed

USERS = [f"u{n}" for n in range(20)]
SHAPE = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 8}
PARAMS = Params.model_validate(
    completed(
        {
            "prepare_data": {"dataset": "tiny", "source": "movielens", "path": "nowhere"},
            "finetune_target": {"architecture": SHAPE},
            "align_draft": {"architecture": SHAPE},
            "evaluate": {"ks": [5, 10], "bootstrap_samples": 200},
            "report": {"title": "Tiny <night>"},
        }
    )
)
DEVICE = {"name": "a CPU", "cores": 2, "threads": 2, "dtype": "float32", "torch": "2", "transformers": "5"}
SHARED = {"num_test_users": len(USERS), "ks": [5, 10], "reference_sha256": "abc", "device": DEVICE}
REQUIRED = {
    *("accepted_steps", "target_calls", "walltime_speedup", "walltime_speedup_oracle", "identical_lists"),
    *("recall", "ndcg", "latency_ms_p50", "latency_ms_p95"),
}


def with_intervals(**figures: float) -> dict[str, Any]:
    return {**figures, **{f"{name}_interval": [value - 0.1, value + 0.1] for name, value in figures.items()}}


def ranking(recall: float) -> dict[str, Any]:
    return {k: with_intervals(recall=recall, ndcg=recall / 2) for k in ("5", "10")}


def method_result(method: str, steps: float) -> dict[str, Any]:
    figures = {
        **with_intervals(accepted_steps=steps, target_calls=4 - steps, recall=0.3, ndcg=0.2),
        **(with_intervals(accepted_steps_published=1.2) if method == "atspeed_s" else {}),
        **with_intervals(walltime_speedup=1.5, walltime_speedup_oracle=2.0, walltime_speedup_vs_generate=9.0),
        "identical_lists": 1.0,
        "identical_sets": 1.0,
        "largest_swap_gap": 0.0,
        "latency_ms_p50": 10.0,
        "latency_ms_p95": 12.0,
        "baseline_latency_ms_p50": 15.0,
    }
    by_k = {"5": figures, "10": figures}
    timing = {"users": 8, "repetitions": 3, "load_average": {"5": 0.5, "10": 1.25}}
    extra = {"speedup_baseline": "the target's own search", "timing": timing, "draft": {"parameters": 1000}}
    curve = {"k": 5, "target_calls_expected": 1.4, "target_nodes": 70.0, "target_nodes_p95": 90.0, "users": 8}
    curve |= {"drafted_nodes": 64, "target_calls": 4 - steps, "identical_lists": 1.0}
    extra["calls_by_nodes"] = [curve]
    extra["plan"] = [
        {"k": 5, "batch": batch, "choice": {"speculation": name}} for batch, name in ((1, "draft"), (8, "none"))
    ]
    return {**SHARED, **extra, "method": method, "verifications": {"strict": by_k, "relaxed": by_k}}


def write(path: str, content: dict[str, Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))


def write_per_user(name: str, label: str, labels: list[str], figures: dict[str, list[float]]) -> None:
    rows = [
        {"user_id": user, label: value, "k": k, **{figure: numbers[n] for figure, numbers in figures.items()}}
        for value in labels
        for k in (5, 10)
        for n, user in enumerate(USERS)
    ]
    Path("results/per_user").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(f"results/per_user/{name}.parquet")


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of a report over sft and atspeed_s; for every user atspeed_s has one accepted step more, or two."""
    monkeypatch.chdir(tmp_path)
    write("data/processed/stats.json", {"users": 20, "items": 50})
    write("data/identifiers/report.json", {"collisions": {"items_before": 7}, "codebook_use": [{"used": 31}]})
    knn = {"settings": {"neighbours": 20, "last_items": None}, **ranking(0.2)}
    baselines = {"popularity": {"settings": {"exclude_seen": True}, **ranking(0.1)}, "item_knn": knn}
    baselines["sasrec"] = {"settings": {"updates": 40, "exclude_seen": True}, **ranking(0.25)}
    target = {"target": {"parameters": 12345, "exclude_history": True, **ranking(0.3)}, "baselines": baselines}
    timing = {"users": 8, "repetitions": 3, "load_average": {"5": 0.25, "10": 0.5}}
    write("results/target.json", {**SHARED, **target, "method": "target", "timing": timing})
    for method, steps in (("sft", 0.5), ("atspeed_s", 2.0)):
        write(f"results/{method}.json", method_result(method, steps))
    hits = [float(n % 2) for n in range(20)]
    recommenders = ["target", "popularity", "item_knn", "sasrec"]
    write_per_user("target", "recommender", recommenders, {"recall": hits, "ndcg": hits})
    for method, steps in (("sft", [0.0] * 20), ("atspeed_s", [1.0, 2.0] * 10)):
        write_per_user(method, "verification", ["strict", "relaxed"], {"accepted_steps": steps})


def test_metrics_hold_what_the_design_names() -> None:
    metrics = report.write_report(PARAMS)
    assert json.loads(Path("results/metrics.json").read_text()) == metrics
    assert metrics["dataset"] == {"name": "tiny", "users": 20, "items": 50}
    assert set(metrics["methods"]) == {"sft", "atspeed_s"}
    assert set(metrics["methods"]["sft"]["strict"]) == {"5", "10"}
    assert set(metrics["methods"]["sft"]["strict"]["10"]) >= REQUIRED
    assert metrics["baselines"]["item_knn"]["10"]["recall"] == 0.2
    assert metrics["target"]["10"]["recall"] == 0.3


def test_the_curve_of_calls_against_nodes_is_reported() -> None:
    assert report.write_report(PARAMS)["calls_by_nodes"]["sft"][0]["drafted_nodes"] == 64
    assert "| atspeed_s | 5 | 64 | 2.00 | 70 | 90 | 1.0000 |" in Path("results/summary.md").read_text()
    assert "Target calls against nodes, K = 5" in Path("results/report.html").read_text()


def test_comparisons_are_paired_over_users() -> None:
    comparisons = report.write_report(PARAMS)["comparisons"]
    difference = comparisons["atspeed_s - sft"]["strict"]["10"]
    assert difference["accepted_steps"] == 1.5
    low, high = difference["accepted_steps_interval"]
    assert 1 < low < 1.5 < high < 2
    assert comparisons["target - item_knn"]["5"]["recall_interval"] == [0, 0]  # the same hits: no spread at all


def test_the_order_of_the_users_does_not_matter() -> None:
    before = report.write_report(PARAMS)["comparisons"]
    path = Path("results/per_user/atspeed_s.parquet")
    pd.read_parquet(path).iloc[::-1].to_parquet(path)
    after = report.write_report(PARAMS)["comparisons"]
    assert after["atspeed_s - sft"]["strict"]["10"]["accepted_steps"] == 1.5
    assert before["target - popularity"] == after["target - popularity"]


def test_summary_names_baseline_and_device() -> None:
    report.write_report(PARAMS)
    summary = Path("results/summary.md").read_text()
    assert "WS: time of the target's own search" in summary
    assert "load average 0.2 to 1.2" in summary
    assert "a CPU (2 cores, 2 threads), float32" in summary
    assert (
        "| atspeed_s | strict | 10 | 2.00 [1.90, 2.10] | 2.00 | 1.20 [1.10, 1.30] "
        "| 1.50 [1.40, 1.60] | 2.00 [1.90, 2.10] | 75% |" in summary
    )
    assert "| atspeed_s - sft | strict accepted_steps | 10 | 1.5000 [" in summary


def test_a_verification_that_a_draft_does_not_offer_is_a_dash() -> None:
    result = method_result("sft", 0.5)
    del result["verifications"]["relaxed"]
    write("results/sft.json", result)
    write_per_user("sft", "verification", ["strict"], {"accepted_steps": [0.0] * 20})
    report.write_report(PARAMS)
    summary = Path("results/summary.md").read_text()
    assert f"| sft | relaxed |{' - |' * 14}" in summary
    assert "| sft | strict | 10 | 0.50 [0.40, 0.60] | 3.50 | - |" in summary  # and so is what it has not


def test_page_is_whole_without_a_network() -> None:
    Path("models/target").mkdir(parents=True)
    Path("models/target/curves.csv").write_text("step,name,value\n1,loss,5\n2,loss,4\n1,recall,0.1\n")
    report.write_report(PARAMS)
    page = Path("results/report.html").read_text()
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=", page)
    assert "@import" not in page.split("<script>")[0]
    metrics = sum(metric.compared for metric in METRICS.all().values())
    assert page.count('class="plotly-graph-div"') == metrics + 4  # speed, identity, calls, one curve
    assert "Tiny &lt;night&gt;" in page
    assert "<night>" not in page
    assert "<td>codebook_use.1.used</td><td>31</td>" in page


def test_plots_have_one_column_per_line() -> None:
    report.write_report(PARAMS)
    steps = pd.read_csv("results/plots/accepted_steps.csv")
    assert list(steps) == ["k", "sft_strict", "sft_relaxed", "atspeed_s_strict", "atspeed_s_relaxed"]
    assert steps["k"].tolist() == [5, 10]
    assert steps["atspeed_s_strict"].tolist() == [2.0, 2.0]
    assert "sft_oracle" in pd.read_csv("results/plots/walltime_speedup.csv")
    ranked = pd.read_csv("results/plots/ranking.csv")
    assert (ranked["recall_item_knn"].tolist(), ranked["recall_sasrec"].tolist()) == ([0.2, 0.2], [0.25, 0.25])


@pytest.mark.parametrize(("field", "value"), [("num_test_users", 19), ("reference_sha256", "old"), ("ks", [5])])
def test_results_of_another_measurement_are_refused(field: str, value: object) -> None:
    report.write_report(PARAMS)
    before = Path("results/metrics.json").read_text()
    write("results/sft.json", {**method_result("sft", 0.5), field: value})
    with pytest.raises(UserError, match=rf"sft.json: {field} is .*; run the evaluate_target and evaluate stages"):
        report.write_report(PARAMS)
    assert Path("results/metrics.json").read_text() == before


@pytest.mark.parametrize(
    ("missing", "stage"),
    [
        ("results/target.json", "evaluate_target"),
        ("results/per_user/sft.parquet", "evaluate@sft"),
        ("data/processed/stats.json", "prepare_data"),
        ("data/identifiers/report.json", "build_identifiers"),
    ],
)
def test_a_missing_file_names_the_stage_that_writes_it(missing: str, stage: str) -> None:
    Path(missing).unlink()
    with pytest.raises(UserError, match=rf"{missing}: no such file; run the {stage} stage first"):
        report.write_report(PARAMS)


def test_no_method_at_all_is_refused() -> None:
    for method in ("sft", "atspeed_s"):
        Path(f"results/{method}.json").unlink()
    with pytest.raises(UserError, match="no results of any method"):
        report.write_report(PARAMS)


def test_a_damaged_file_is_one_line() -> None:
    Path("results/sft.json").write_text('{"method": ')
    with pytest.raises(UserError, match=r"^[^\n]*sft.json: not valid JSON[^\n]*$"):
        report.write_report(PARAMS)


def test_meaningless_ratios_are_words() -> None:
    """Nothing was speculated at K = 5; other work ran while K = 10 was timed."""
    content = json.loads(Path("results/sft.json").read_text())
    strict = content["verifications"]["strict"]
    unspeculated = {"speculated": False, "walltime_speedup": 1.0, "walltime_speedup_interval": [1.0, 1.0]}
    disturbed = {"walltime_speedup": 6.1, "walltime_speedup_interval": [3.6, 11.9]}
    relaxed = {k: figures | {"users": 7} for k, figures in content["verifications"]["relaxed"].items()}
    content["verifications"] = {"strict": {"5": strict["5"] | unspeculated, "10": strict["10"] | disturbed}}
    content["verifications"]["relaxed"] = relaxed
    write("results/sft.json", content)
    report.write_report(PARAMS)
    assert "the rest: all 20 test users, of relaxed 7;" in Path("results/summary.md").read_text()
    rows = [line for line in Path("results/summary.md").read_text().splitlines() if line.startswith("| sft | strict")]
    assert ["| nothing speculated | 2.00 [1.90, 2.10] | - |" in row for row in rows] == [True, False]
    assert ["| too noisy | 2.00 [1.90, 2.10] | - |" in row for row in rows] == [False, True]
