"""The last step of experiment_sweep: one table of all experiments; a failed one is listed and affects no other."""

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import typer

from atspeed_core.errors import UserError
from atspeed_core.files import read_json, replacing
from atspeed_core.metrics import METRICS, of_decoding, of_lists
from tasks.deployment.workflow import answer, command
from tasks.mlflow_store import allowed_name, experiment, find_or_create_run
from tasks.sweep.plan_sweep import Experiment, Sweep, folder_of, load_sweep
from tasks.sweep.run_experiment import FAILURE, METRICS_FILE
from tasks.tracking import KEY, STATE

if TYPE_CHECKING:  # takes seconds to import
    from mlflow.tracking import MlflowClient

Json = dict[str, Any]

FIGURES = [
    *(metric.name for metric in of_decoding() if metric.in_tables),
    "walltime_speedup",
    "walltime_speedup_oracle",
    "identical_lists",
    *(metric.name for metric in of_lists() if metric.in_tables),
    "latency_ms_p50",
    "latency_ms_p95",
]
PLOTTED = {
    **{metric.name: metric.title for metric in METRICS.all().values() if metric.compared},
    "walltime_speedup": "Walltime speedup",
}
MAIN_K = 10  # of summary.md, or the largest K below it; comparison.csv has all
FAILED = "atspeed.failed_experiments"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(run_id: Annotated[str, typer.Option(help="Of the DAG run.")]) -> None:
    """Compare the experiments, log the comparison to MLflow and end the sweep's run there."""
    with command("close_sweep"):
        sweep = load_sweep(run_id)
        results = {item.name: strict_figures(folder_of(run_id) / item.name, item) for item in sweep.experiments}
        failed = [name for name, by_k in results.items() if by_k is None]
        files = write_comparison(folder_of(run_id), sweep, results)
        log_to_mlflow(sweep, results, files)
        if len(failed) == len(sweep.experiments):
            raise UserError(f"all {len(failed)} experiments failed; see their tasks' logs, then clear them")
        answer({"experiments": len(sweep.experiments), "failed": failed, "summary": str(files[0])})


def strict_figures(folder: Path, experiment: Experiment) -> Json | None:
    """K (as text) -> figures of the experiment's draft, strict verification; None: it has not finished."""
    if not (folder / METRICS_FILE).exists():
        return None
    return dict(read_json(folder / METRICS_FILE)["methods"][experiment.method]["strict"])


def comparison(sweep: Sweep, results: dict[str, Json | None]) -> pd.DataFrame:
    """One row per experiment and K: name, method, the settings that differ, K, figures."""
    rows = [
        {"experiment": item.name, "method": item.method, **texts(item.overrides), "k": int(k)}
        | {name: figures[name] for name in FIGURES if name in figures}
        for item in sweep.experiments
        for k, figures in (results[item.name] or {}).items()
    ]
    return pd.DataFrame(rows)


def texts(overrides: dict[str, Any]) -> dict[str, str]:
    """Settings as cells of a table."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in overrides.items()}


def write_comparison(folder: Path, sweep: Sweep, results: dict[str, Json | None]) -> list[Path]:
    """Write summary.md, comparison.csv and comparison.html into `folder`; returns their paths."""
    table = comparison(sweep, results)
    failures = [failure_line(folder / name, name) for name, by_k in results.items() if by_k is None]
    contents = {
        "summary.md": summary(sweep, table, failures),
        "comparison.csv": table.to_csv(index=False),
        "comparison.html": page(sweep, table, failures),
    }
    for name, text in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in contents]


def failure_line(folder: Path, name: str) -> str:
    """The reason why an experiment has no figures."""
    if not (folder / FAILURE).exists():
        return f"{name}: did not finish"
    failure = read_json(folder / FAILURE)
    return f"{name}: {failure['stage']}, exit code {failure['exit_code']}"


def summary(sweep: Sweep, table: pd.DataFrame, failures: list[str]) -> str:
    """The table at one K and the failures, as Markdown."""
    lines = [f"# Sweep {sweep.run_id}", "", f"Data set {sweep.dataset}, commit {sweep.commit}.", ""]
    if len(table):
        k = max([k for k in table["k"] if k <= MAIN_K] or table["k"])
        lines += [f"K = {k}, verification strict; every K: comparison.csv.", "", *markdown(table[table["k"] == k])]
    return "\n".join([*lines, *(f"- failed: {line}" for line in failures), ""])


def markdown(table: pd.DataFrame) -> list[str]:
    """The lines of a Markdown table; figures with three decimals."""
    cells = [[f"{v:.3f}" if isinstance(v, float) and v == v else str(v) for v in row] for row in table.to_numpy(object)]
    rows = [list(table.columns), ["---"] * len(table.columns), *cells]
    return [f"| {' | '.join(cell.replace('|', '/').replace('nan', '-') for cell in row)} |" for row in rows] + [""]


def page(sweep: Sweep, table: pd.DataFrame, failures: list[str]) -> str:
    """A page with the main figures by K, one line per experiment; it needs no network."""
    plots = [plot(table, name, title) for name, title in PLOTTED.items() if name in table]
    parts = [p.to_html(full_html=False, include_plotlyjs=number == 0) for number, p in enumerate(plots)]
    title = html.escape(f"Sweep {sweep.run_id}")
    failed = "".join(f"<li>failed: {html.escape(line)}</li>" for line in failures)
    head = f'<meta charset="utf-8"><title>{title}</title>'
    body = f"<h1>{title}</h1><ul>{failed}</ul>{''.join(parts)}{table.to_html(index=False)}"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def plot(table: pd.DataFrame, name: str, title: str) -> go.Figure:
    """One figure by K, one line per experiment."""
    figure = go.Figure(layout={"title": title, "xaxis_title": "K", "yaxis_title": name})
    for label, rows in table.groupby("experiment", sort=False):
        figure.add_scatter(x=rows["k"], y=rows[name], name=str(label), mode="lines+markers")
    return figure


def log_to_mlflow(sweep: Sweep, results: dict[str, Json | None], files: list[Path]) -> None:
    """Log a run per experiment below the sweep's run, then the comparison to the sweep's run, and end it.

    Raises:
        TemporaryError: the server does not answer.
    """
    failed = [name for name, by_k in results.items() if by_k is None]
    with experiment() as (client, experiment_id):
        for item in sweep.experiments:
            log_experiment(client, experiment_id, sweep, item, results[item.name])
        for file in files:
            client.log_artifact(sweep.mlflow_run_id, str(file))
        client.set_tag(sweep.mlflow_run_id, FAILED, ", ".join(failed))
        client.set_tag(sweep.mlflow_run_id, STATE, "closed")
        client.set_tag(sweep.mlflow_run_id, "mlflow.note.content", files[0].read_text(encoding="utf-8"))
        status = "FAILED" if len(failed) == len(sweep.experiments) else "FINISHED"
        client.set_terminated(sweep.mlflow_run_id, status)


def log_experiment(
    client: "MlflowClient", experiment_id: str, sweep: Sweep, item: Experiment, by_k: Json | None
) -> None:
    """Log the run of an experiment, once: its settings, and its figures with step = K."""
    tags = {"mlflow.parentRunId": sweep.mlflow_run_id, "dataset": sweep.dataset, "dvc.experiment": item.name}
    key = (KEY, f"experiment-{sweep.run_id}-{item.name}")
    run = find_or_create_run(client, experiment_id, item.name, key, {**tags, "method": item.method})
    if run.info.status == "FINISHED":
        return
    for name, value in {"method": item.method, **texts(item.overrides)}.items():
        client.log_param(run.info.run_id, allowed_name(name), value)
    for k, figures in (by_k or {}).items():
        for name in (name for name in FIGURES if name in figures):
            client.log_metric(run.info.run_id, name, figures[name], step=int(k))
            client.log_metric(run.info.run_id, f"{name}/at_{k}", figures[name])
    client.set_terminated(run.info.run_id, "FAILED" if by_k is None else "FINISHED")


if __name__ == "__main__":
    app()
