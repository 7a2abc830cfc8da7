"""Metrics: each is one file, and nobody else lists them."""

import ast
from pathlib import Path

import pandas as pd
import pytest

from atspeed_core.metrics import METRICS, Answers, measure_all, of_decoding, of_lists

ROOT = Path(__file__).resolve().parents[2]
SEARCH = pd.DataFrame({"accepted_steps": [2, 1], "target_calls": [2, 3], "target_nodes": [40, 60]})
LISTS = {metric.name for metric in of_lists()}


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_has_the_name_of_its_file(name: str) -> None:
    metric = METRICS.get(name)
    assert metric.name == name
    assert metric.summary.endswith(".")
    assert metric.of_lists or not metric.judged  # a figure of decoding has its floor in the gate instead


def test_a_metric_is_of_lists_or_of_decoding() -> None:
    assert sorted(metric.name for metric in [*of_lists(), *of_decoding()]) == list(METRICS.names())


def test_lists_alone_have_the_metrics_of_lists() -> None:
    values = measure_all(Answers([["a", "b"], ["c"]], [["b"], ["d"]], 2))
    assert list(values) == [metric.name for metric in of_lists()]
    assert list(values["recall"]) == [1, 0]


def test_decoded_lists_have_every_metric_in_order() -> None:
    values = measure_all(Answers([["a", "b"], ["c"]], [["b"], ["d"]], 2, search=SEARCH))
    assert list(values) == list(METRICS.all())
    assert list(values["target_calls"]) == [2, 3]


def test_no_code_lists_the_metrics_of_lists() -> None:
    """A tuple or dictionary with two of their names would have to grow with every new metric."""
    faults = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in [*(ROOT / "atspeed_core").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]
        if path.name != "paper_figures.py"  # the figures that the paper reports
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict) and len(LISTS & set(_strings(node))) > 1
    ]
    assert faults == []


def _strings(node: ast.Tuple | ast.List | ast.Set | ast.Dict) -> list[str]:
    """The strings directly in a tuple, list or set, or among the keys of a dictionary."""
    elements = node.keys if isinstance(node, ast.Dict) else node.elts
    return [leaf.value for leaf in elements if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)]
