"""`make run`: everything that is out of date, through `dvc repro`, then the table.

One at a time in a folder. A run that was killed may leave processes behind (see tasks/processes.py): they are ended
first, or the two would write the same files.
"""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import typer

from atspeed_core.data.sources import absent
from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.settings import load_params
from tasks.environment import RUN_ID, SENDER
from tasks.paths import RESULTS
from tasks.processes import end_orphans, end_tree, end_with, make_above, own_children
from tasks.stage import exit_codes, set_up_logging
from tasks.tracking import send_or_warn, waiting

LOCK = Path(".dvc/tmp/make-run.lock")
WAIT_SECONDS = 10.0  # for a predecessor that was killed to notice and end
POLL_SECONDS = 0.5
REPRO = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro")

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main() -> None:
    """Run the stages that are out of date, send their records to MLflow and print the table."""
    set_up_logging("run")
    signal.signal(signal.SIGTERM, lambda *_: end_tree())
    end_with(make_above())
    with exit_codes(), only_run(LOCK):
        end_orphans(Path())
        own_children(Path())
        leave_git_out_where_there_is_none()
        code = reproduce()
        if code != 0:
            explain_missing_data()
        send_or_warn()
    if code == 0:
        print((RESULTS / "summary.md").read_text(encoding="utf-8"))
    sys.exit(code)


def reproduce() -> int:
    """Run `dvc repro`, sending the records of its stages meanwhile; returns its exit code."""
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    environment = {**with_this_python(), RUN_ID: run_id, SENDER: "make run"}
    with subprocess.Popen(REPRO, env=environment) as dvc:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the stage; dvc then says so and ends as well
        answered = True
        while dvc.poll() is None:
            time.sleep(POLL_SECONDS)
            if answered and waiting():
                answered = send_or_warn() == 0
    return dvc.returncode


def with_this_python() -> dict[str, str]:
    """The environment for `dvc repro`: `python` in dvc.yaml is the one that runs this."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def explain_missing_data() -> None:
    """Say where the data are to be had, if they are what DVC did not find."""
    with suppress(UserError):
        if missing := absent(load_params().prepare_data):
            log.error("%s", missing)


def leave_git_out_where_there_is_none() -> None:
    """DVC wants to be told when a project, unpacked from an archive, is no git repository."""
    if not any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
        subprocess.run([sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"], check=True)


@contextmanager
def only_run(lock: Path) -> Iterator[None]:
    """Hold the lock of this folder's `make run`.

    Raises:
        TemporaryError: another one holds it and goes on holding it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        deadline = time.monotonic() + WAIT_SECONDS
        while not _acquired(file):
            if time.monotonic() > deadline:
                raise TemporaryError("another `make run` is under way in this folder; wait until it ends")
            time.sleep(POLL_SECONDS)
        yield


def _acquired(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    app()
