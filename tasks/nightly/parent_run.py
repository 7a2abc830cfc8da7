"""The MLflow run of a night, parent of the runs of its stages: opened by open_run, ended by close_run."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atspeed_core.files import read_json
from tasks.mlflow_store import allowed_name, experiment, find_or_create_run
from tasks.nightly.night import Night
from tasks.tracking import PIPELINE_RUN, STATE

CHECKS = Path("checks.json")  # written by check_interactions
FAILED = "atspeed.failed_tasks"
NOTE = "mlflow.note.content"
STATUS = {"success": "FINISHED", "skipped": "FINISHED", "failed": "FAILED"}

log = logging.getLogger(__name__)


def open_parent(night: Night, warm_start: str | None) -> str:
    """The id of the night's run, created if there is none; its stages find it by their pipeline run.

    Args:
        night: its facts.
        warm_start: the commit from whose models training starts.

    Raises:
        TemporaryError: the tracking server does not answer.
    """
    tags = {
        STATE: "open",
        "dataset": night.dataset,
        "atspeed.dataset": night.dataset,
        "atspeed.date": night.date,
        "atspeed.tag": night.tag,
        "atspeed.methods": ", ".join(night.methods),
        "atspeed.warm_start": warm_start or "none",
        "atspeed.champion": night.champion.version if night.champion else "none",
        "mlflow.source.git.commit": night.commit,
    }
    with experiment() as (client, experiment_id):
        name = f"night {night.date} {night.dataset}"
        return str(find_or_create_run(client, experiment_id, name, (PIPELINE_RUN, night.run_id), tags).info.run_id)


def reopen_parent(run_id: str) -> None:
    """Mark a closed run as running again, after its tasks were cleared."""
    with experiment() as (client, _):
        client.set_tag(run_id, STATE, "open")
        client.update_run(run_id, status="RUNNING")


def close_parent(run_id: str, state: str, failed: list[str], checkout: Path) -> None:
    """End the night's run, with the figures of its data checks.

    Raises:
        TemporaryError: the tracking server does not answer.
    """
    checks = checkout / CHECKS
    with experiment() as (client, _):
        if checks.exists():
            client.log_artifact(run_id, str(checks))
            for name, value, step in check_figures(read_json(checks)["checks"]):
                client.log_metric(run_id, allowed_name(name), value, step=step)
        client.set_tag(run_id, STATE, state)
        client.set_tag(run_id, FAILED, ", ".join(failed))
        client.set_tag(run_id, NOTE, _note(state, failed))
        client.set_terminated(run_id, STATUS[state])


def check_figures(checks: list[dict[str, Any]]) -> Iterator[tuple[str, float, int]]:
    """The figures of the data checks as (name, value, step); the step is the index of the new day."""
    days = sorted({check["day"] for check in checks})
    for check in checks:
        if check["value"] is not None:
            yield f"checks/{check['name']}", float(check["value"]), days.index(check["day"])


def _note(state: str, failed: list[str]) -> str:
    if state == "skipped":
        return "Nothing to do: no interactions arrived for this day, so nothing was trained."
    return f"Failed: {', '.join(failed) or 'the run'}." if state == "failed" else "A green night."
