"""All stages, one after the other, on a little real data: each writes its outputs, and the report has every figure.

DVC, MLflow and kills come in with tests/pipeline (make test-pipeline).
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_project import KS, METHODS, stages

FIGURES = {"accepted_steps", "target_calls", "walltime_speedup", "walltime_speedup_oracle", "identical_lists"}
FIGURES |= {"recall", "ndcg", "latency_ms_p50", "latency_ms_p95"}


@pytest.fixture(scope="module")
def metrics(tiny_pipeline: Path) -> dict[str, Any]:
    return dict(json.loads((tiny_pipeline / "results" / "metrics.json").read_text()))


def test_every_output_of_dvc_yaml_is_written(tiny_pipeline: Path) -> None:
    wiring = yaml.safe_load((tiny_pipeline / "dvc.yaml").read_text())["stages"]
    outputs = {
        (out if isinstance(out, str) else next(iter(out))).replace("${item.method}", method)
        for stage in wiring.values()
        for out in stage["outs"]
        for method in stage.get("matrix", {"method": [""]})["method"]
    }
    assert len(outputs) > len(wiring)
    assert [out for out in sorted(outputs) if not (tiny_pipeline / out).exists()] == []


def test_every_stage_leaves_one_record(tiny_pipeline: Path) -> None:
    records = [json.loads(path.read_text()) for path in tiny_pipeline.glob("outbox/*/record.json")]
    names = [f"{record['stage']}@{record['method']}" if record["method"] else record["stage"] for record in records]
    assert sorted(names) == sorted(stages())
    assert all(record["unwired"] is None for record in records)


def test_the_report_has_every_figure_of_every_method(tiny_pipeline: Path, metrics: dict[str, Any]) -> None:
    assert {"dataset", "device", "target", "baselines", "methods"} <= metrics.keys()
    assert list(metrics["methods"]) == METHODS
    for method in METHODS:
        for verification in ("strict",) if method == "one_shot" else ("strict", "relaxed"):
            by_k = metrics["methods"][method][verification]
            assert list(by_k) == KS
            assert all(figures.keys() >= FIGURES for figures in by_k.values())
    for name in ("summary.md", "report.html", "plots/accepted_steps.csv"):
        assert (tiny_pipeline / "results" / name).stat().st_size > 0


def test_strict_lists_are_those_of_generate(metrics: dict[str, Any]) -> None:
    for method in METHODS:
        strict = metrics["methods"][method]["strict"]
        assert {k: figures["identical_lists"] for k, figures in strict.items()} == dict.fromkeys(KS, 1.0)


def test_more_nodes_need_fewer_calls_and_give_the_same_lists(metrics: dict[str, Any]) -> None:
    for method in METHODS:
        rows = metrics["calls_by_nodes"][method]
        assert [(row["k"], row["drafted_nodes"]) for row in rows] == [(3, 4), (3, 16), (5, 4), (5, 16)]
        assert all(row["identical_lists"] == 1.0 for row in rows)
        assert all(many["target_calls"] <= few["target_calls"] for few, many in zip(rows[::2], rows[1::2], strict=True))
