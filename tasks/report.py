"""Stage report: the results of all methods together, for people and for DVC."""

from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table as RichTable

from atspeed_core.evaluation.inputs import read_stage_json
from atspeed_core.files import replacing, write_json
from atspeed_core.reporting.report_page import report_page
from atspeed_core.reporting.report_tables import (
    calls_table,
    comparison_table,
    ranking_table,
    speed_table,
    summary_markdown,
)
from atspeed_core.reporting.results import combine, load_results, plot_tables
from atspeed_core.reporting.text_table import TextTable
from atspeed_core.settings import Params, method_names
from tasks.paths import DRAFTS, IDENTIFIERS, PROCESSED, RESULTS, TARGET
from tasks.stage import ParamsPath, Run, stage

Json = dict[str, Any]

WIDTH_OF_A_FILE = 200  # columns of text where the tables are not printed on a terminal

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(params: ParamsPath = Path("params.yaml")) -> None:
    """Write results/metrics.json, summary.md, report.html and plots/, and print the tables."""
    with stage("report", params) as run:
        metrics = write_report(run.params)
        record(metrics, run)
        show([ranking_table(metrics), speed_table(metrics), calls_table(metrics), comparison_table(metrics)])


def write_report(params: Params) -> Json:
    """Combine the results in the project's folder; returns the content of results/metrics.json.

    Raises:
        UserError: an input is missing or damaged, or was measured under other conditions than the rest.
    """
    results = load_results(RESULTS, method_names())
    dataset = {"name": params.prepare_data.dataset, **read_stage_json(PROCESSED / "stats.json", "prepare_data")}
    identifiers = read_stage_json(IDENTIFIERS / "report.json", "build_identifiers")
    metrics = combine(dataset, results, samples=params.evaluate.bootstrap_samples, seed=params.evaluate.seed)
    title = params.report.title
    write_text(RESULTS / "summary.md", summary_markdown(title, metrics))
    curves = learning_curves(list(results.methods))
    write_text(RESULTS / "report.html", report_page(title, metrics, curves=curves, identifiers=identifiers))
    for name, table in plot_tables(metrics).items():
        write_text(RESULTS / "plots" / f"{name}.csv", table.to_csv())
    write_json(RESULTS / "metrics.json", metrics)
    return metrics


def learning_curves(methods: list[str]) -> dict[str, pd.DataFrame]:
    """Model -> columns step, name, value, for the models that recorded learning curves."""
    folders = {"target": TARGET, **{f"draft {method}": DRAFTS / method for method in methods}}
    files = {name: folder / "curves.csv" for name, folder in folders.items()}
    return {name: pd.read_csv(path) for name, path in files.items() if path.exists()}


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def record(metrics: Json, run: Run) -> None:
    """Log to MLflow: the files that people read."""
    run.log_param("num_test_users", metrics["num_test_users"])
    run.log_param("methods", ", ".join(metrics["methods"]))
    for name in ("metrics.json", "summary.md", "report.html"):
        run.artifact(RESULTS / name)


def show(tables: list[TextTable]) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_A_FILE)
    for table in (table for table in tables if table.rows):
        shown = RichTable(title=table.title, caption=table.note, caption_justify="left")
        for column in table.columns:
            shown.add_column(column, justify="left" if column == table.columns[0] else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


if __name__ == "__main__":
    app()
