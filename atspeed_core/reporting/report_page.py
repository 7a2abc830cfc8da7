"""results/report.html: one file with plots and tables that opens without a network."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from atspeed_core.evaluation.inputs import rows_by_k
from atspeed_core.metrics import of_decoding, of_lists
from atspeed_core.reporting.report_tables import calls_table, comparison_table, describe, ranking_table, speed_table
from atspeed_core.reporting.results import TARGET
from atspeed_core.reporting.text_table import TextTable
from atspeed_core.verifications import VERIFICATIONS

Json = dict[str, Any]
Curves = Mapping[str, pd.DataFrame]

STYLE = """
body { font-family: system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(30rem, 1fr)); gap: 1rem; }
.plots > * { min-width: 0; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.5rem 0 1.5rem; }
td, th { border: 1px solid #ccc; padding: 0.2rem 0.6rem; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
.scroll { overflow-x: auto; }
"""


def report_page(title: str, metrics: Json, *, curves: Curves, identifiers: Json) -> str:
    """The page as HTML.

    Args:
        title: heading.
        metrics: content of results/metrics.json.
        curves: model -> its learning curves (columns step, name, value); may be empty.
        identifiers: content of data/identifiers/report.json; may be empty.
    """
    plots = [*method_plots(metrics), *calls_plots(metrics), *ranking_plots(metrics), *curve_plots(curves)]
    tables = [ranking_table(metrics), speed_table(metrics), calls_table(metrics), comparison_table(metrics)]
    tables.append(identifier_table(identifiers))
    body = [
        f"<h1>{html.escape(title)}</h1>",
        "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in describe(metrics)) + "</ul>",
        f'<div class="plots">{"".join(_plot(number, figure) for number, figure in enumerate(plots))}</div>',
        *(_table(table) for table in tables if table.rows),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    script = f"<script>{get_plotlyjs()}</script>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}{script}</head><body>{"".join(body)}</body></html>\n'


def method_plots(metrics: Json) -> list[go.Figure]:
    """The metrics of decoding, walltime speedup (with the oracle's) and share of identical lists, by K."""
    lines = [
        (f"{method}, {verification}", by_k, "solid" if VERIFICATIONS.get(verification).primary else "dot")
        for method, verifications in metrics["methods"].items()
        for verification, by_k in verifications.items()
    ]
    plots = {metric.name: _by_k(metric.title, metric.title) for metric in of_decoding() if metric.compared}
    plots["walltime_speedup"] = speed = _by_k("Walltime speedup", "times faster than the target's own search")
    plots["identical_lists"] = _by_k("Identical lists", "share equal to the reference")
    for label, by_k, dash in lines:
        for name, plot in plots.items():
            _add(plot, label, by_k, name, dash)
    for method, verifications in metrics["methods"].items():
        for by_k in list(verifications.values())[:1]:  # the oracle's search does not depend on the verification
            _add(speed, f"{method}, oracle", by_k, "walltime_speedup_oracle", "dash")
    plots["identical_lists"].update_yaxes(range=[0, 1.05])
    return list(plots.values())


def calls_plots(metrics: Json) -> list[go.Figure]:
    """Target calls against mean nodes: one plot per K, one line per method."""
    curves = metrics["calls_by_nodes"]
    figures = []
    for k in sorted({row["k"] for by_nodes in curves.values() for row in by_nodes}):
        figure = go.Figure(layout=_layout(f"Target calls against nodes, K = {k}", "nodes per request, mean", "calls"))
        for method, by_nodes in curves.items():
            rows = [row for row in by_nodes if row["k"] == k]
            x, y = [row["target_nodes"] for row in rows], [row["target_calls"] for row in rows]
            figure.add_scatter(x=x, y=y, name=method, mode="lines+markers")
        figures.append(figure)
    return figures


def ranking_plots(metrics: Json) -> list[go.Figure]:
    """The metrics of lists: of the target and the recommenders without a language model, by K."""
    figures = []
    for metric in (metric for metric in of_lists() if metric.compared):
        figure = _by_k(f"{metric.title}@K", metric.title)
        for recommender, by_k in {TARGET: metrics[TARGET], **metrics["baselines"]}.items():
            _add(figure, recommender, by_k, metric.name, "solid" if recommender == TARGET else "dot")
        figures.append(figure)
    return figures


def curve_plots(curves: Curves) -> list[go.Figure]:
    """One plot per model: each named curve by step."""
    figures = []
    for model, frame in curves.items():
        figure = go.Figure(layout=_layout(f"Learning curves: {model}", "step", "value"))
        for name, rows in frame.groupby("name"):
            figure.add_scatter(x=rows["step"].tolist(), y=rows["value"].tolist(), name=str(name), mode="lines")
        figures.append(figure)
    return figures


def identifier_table(report: Json) -> TextTable:
    """Every fact in the report on the identifiers, by its path."""
    rows = [[name, f"{value:,.4g}" if isinstance(value, float) else str(value)] for name, value in _leaves(report)]
    return TextTable("Identifiers", "From data/identifiers/report.json.", ["figure", "value"], rows)


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for number, inner in enumerate(value, start=1):
            yield from _leaves(inner, f"{path}.{number}")
    elif isinstance(value, list):
        yield path, ", ".join(map(str, value))
    elif value is not None:
        yield path, value


def _by_k(title: str, label: str) -> go.Figure:
    figure = go.Figure(layout=_layout(title, "K", label))
    figure.update_xaxes(type="category")
    return figure


def _layout(title: str, x: str, y: str) -> Json:
    return {"title": title, "xaxis_title": x, "yaxis_title": y, "template": "plotly_white", "height": 420}


def _add(figure: go.Figure, label: str, by_k: Json, name: str, dash: str) -> None:
    rows = [(k, figures) for k, figures in rows_by_k(by_k) if name in figures]
    values = [figures[name] for _, figures in rows]
    bounds = [figures.get(f"{name}_interval", [figures[name]] * 2) for _, figures in rows]
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, (_, high) in zip(values, bounds, strict=True)],
        "arrayminus": [value - low for value, (low, _) in zip(values, bounds, strict=True)],
    }
    figure.add_scatter(x=[k for k, _ in rows], y=values, name=label, error_y=bars, line={"dash": dash})


def _plot(number: int, figure: go.Figure) -> str:
    config = {"displaylogo": False, "responsive": True, "plotlyServerURL": ""}
    div = figure.to_html(full_html=False, include_plotlyjs=False, config=config, div_id=f"plot-{number}")
    return f"<div>{div}</div>"


def _table(table: TextTable) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f"<h2>{html.escape(table.title)}</h2><p>{html.escape(table.note)}</p>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
