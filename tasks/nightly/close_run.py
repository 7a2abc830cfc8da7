"""Closes a night, however it ended: sends all records to MLflow and removes the checkouts that nobody needs."""

import contextlib
import logging
import shutil
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tasks.deployment.checkout import checkout_of, facts_of
from tasks.deployment.workflow import answer, command
from tasks.mlflow_store import experiment
from tasks.nightly.night import Night, load_night
from tasks.nightly.parent_run import close_parent
from tasks.paths import NIGHT
from tasks.record import OUTBOX
from tasks.tracking import send_pending, waiting

KEEP_DAYS = 14  # to examine a failed night or to clear its tasks
DAY_SECONDS = 24 * 60 * 60

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class State(StrEnum):
    """How the tasks of a night ended."""

    success = "success"
    failed = "failed"
    skipped = "skipped"


@app.command()
def main(
    run_id: Annotated[str, typer.Option(help="Of the DAG run.")],
    state: Annotated[State, typer.Option(help="How its tasks ended; skipped: there was nothing to do.")],
    failed: Annotated[list[str], typer.Option(help="A task that failed; repeat for more.")] = [],  # noqa: B006
) -> None:
    """End the night's run in MLflow; remove its checkout unless it failed."""
    with command("close_run"):
        answer(close_run(run_id, state.value, failed))


def close_run(run_id: str, state: str, failed: list[str]) -> dict[str, Any]:
    """Send the waiting records, end the night's run in MLflow and clean up. A second call changes nothing.

    Raises:
        TemporaryError: the tracking server does not answer; the records wait, and nothing is removed.
    """
    checkout, facts = checkout_of(run_id), facts_of(run_id)
    folders = [folder for folder in (facts, checkout) if (folder / NIGHT).exists()]
    if not folders:
        log.warning("run %s was never opened: nothing to close", run_id)
        return {"records_waiting": 0}
    record(load_night(folders[0]), checkout, state, failed)
    if state != State.failed:
        remove(checkout)
    remove_old(checkout.parent)
    return {"records_waiting": len(waiting(checkout / OUTBOX))}


def record(night: Night, checkout: Path, state: str, failed: list[str]) -> None:
    """Send the records in the checkout's outbox and end the night's run in MLflow; a dry run has no run."""
    outbox = checkout / OUTBOX
    if waiting(outbox):
        with experiment():
            log.info("%d records sent to MLflow", send_pending(outbox))
    if night.mlflow_run_id:
        close_parent(night.mlflow_run_id, state, failed, checkout)


def remove(checkout: Path) -> None:
    """Remove a checkout; its content is in git, in the DVC remote and in MLflow."""
    if checkout.exists():
        shutil.rmtree(checkout)
        log.info("%s removed", checkout)


def remove_old(folder: Path) -> None:
    """Remove checkouts, and remains of killed attempts, that were opened more than KEEP_DAYS ago."""
    latest = time.time() - KEEP_DAYS * DAY_SECONDS
    for checkout in folder.iterdir() if folder.exists() else ():
        facts = checkout / NIGHT
        opened = facts if facts.exists() else checkout
        with contextlib.suppress(FileNotFoundError):  # another run removed it just now
            if opened.stat().st_mtime < latest:
                remove(checkout)


if __name__ == "__main__":
    app()
