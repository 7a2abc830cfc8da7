"""`make run`: everything that is out of date, through `dvc repro`, then the table.

One at a time in a folder. A run that was killed may leave processes behind (see tasks/processes.py): they are ended
first, or the two would write the same files.

The drafts are aligned, and then evaluated, several at a time where cores allow, each by a `dvc repro --single-item` of
its own: DVC gives up its lock of the project while a stage's command runs and keeps two stages from writing the same
files. An evaluation that reads the clock has the machine to itself (tasks/machine_lock.py). The last `dvc repro` goes
over all stages, so what it leaves in dvc.lock is what it would leave without this.
"""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import typer
import yaml

from atspeed_core.data.sources import absent
from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.settings import load_params
from tasks.environment import RUN_ID, SENDER
from tasks.machine_lock import being_timed
from tasks.paths import RESULTS
from tasks.processes import end_orphans, end_tree, end_with, make_above, own_children
from tasks.stage import exit_codes, set_up_logging
from tasks.stage_clock import StageClock, show_seconds
from tasks.threads import num_cores, num_threads
from tasks.tracking import send_or_warn, waiting

LOCK = Path(".dvc/tmp/make-run.lock")
WAIT_SECONDS = 10.0  # for a predecessor that was killed to notice and end
POLL_SECONDS = 0.5
COPY_SECONDS = 5.0  # for the last lines of a command that has ended
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
REPRO = (*DVC, "repro")
BEFORE_DRAFTS = "cache_topk"  # every stage that an alignment needs is this one or comes before it
BEFORE_EVALUATIONS = "evaluate_target"  # likewise for the evaluations of drafts
AFTER_DRAFTS = {"evaluate_target", "evaluate", "report"}  # stages that no alignment needs

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
        code, seconds = reproduce(num_cores() // num_threads(load_params()))
        if code != 0:
            explain_missing_data()
        send_or_warn()
    show_seconds(seconds)
    if code == 0:
        print((RESULTS / "summary.md").read_text(encoding="utf-8"))
    sys.exit(code)


def reproduce(at_once: int) -> tuple[int, dict[str, float]]:
    """Bring all stages up to date, sending their records meanwhile.

    Args:
        at_once: number of stages that may run side by side.

    Returns:
        DVC's exit code, and the seconds of each stage that ran.
    """
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    environment = {**with_this_python(), RUN_ID: run_id, SENDER: "make run"}
    code = 0
    commands = rounds(environment, at_once)
    # Ctrl-C ends the stage; dvc then says so and ends as well. A function, as dvc would inherit SIG_IGN.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    with StageClock() as clock:
        for side_by_side in commands:
            code = code or run_side_by_side(side_by_side, at_once, environment)
    signal.signal(signal.SIGINT, before)
    return code, clock.seconds


def rounds(environment: dict[str, str], at_once: int) -> list[list[list[str]]]:
    """Commands to run one round after the other; those of a round may run side by side."""
    commands = [[[*REPRO]]]
    stale = None if at_once < 2 else stale_stages(environment)
    if not stale:
        return commands
    # The first method, sft, takes the least time: at the end it leaves the others the least to wait for.
    if len(evaluations := matrix_stages(Path("dvc.yaml"), "evaluate")) > 1:
        commands = [[[*REPRO, BEFORE_EVALUATIONS]], [single(name) for name in reversed(evaluations)], *commands]
    if len(drafts := matrix_stages(Path("dvc.yaml"), "align_draft")) > 1 and stale - AFTER_DRAFTS:
        commands = [[[*REPRO, BEFORE_DRAFTS]], [single(name) for name in reversed(drafts)], *commands]
    return commands


def single(stage: str) -> list[str]:
    """The command that runs one stage if it is out of date."""
    return [*REPRO, "--single-item", stage]


def matrix_stages(wiring: Path, stage: str) -> list[str]:
    """The stages of a matrix over methods, by DVC's names for them."""
    matrix = yaml.safe_load(wiring.read_text(encoding="utf-8"))["stages"].get(stage, {}).get("matrix", {})
    return [f"{stage}@{method}" for method in matrix.get("method", [])]


def stale_stages(environment: dict[str, str]) -> set[str]:
    """Names, without their methods, of the stages that are out of date; all where DVC cannot say."""
    command = [*DVC, "status", "--json"]
    status = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if status.returncode:
        return set(yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"])
    return {name.split("@")[0] for name in json.loads(status.stdout)}


def run_side_by_side(commands: list[list[str]], at_once: int, environment: dict[str, str]) -> int:
    """Run commands, `at_once` of them at a time; after a failure none is started. Returns the first exit code not 0."""
    to_start, running, answered = list(commands), list[subprocess.Popen[str]](), True
    codes: list[int] = []
    errors = subprocess.PIPE if len(commands) > 1 else None  # whole lines then, and no progress bars over each other
    copies = []
    while running or (to_start and not any(codes)):
        while to_start and len(running) < at_once and not any(codes) and not being_timed():
            running.append(subprocess.Popen(to_start.pop(0), env=environment, stderr=errors, text=True))
            if stream := running[-1].stderr:
                copies.append(threading.Thread(target=copy_lines, args=(stream,), daemon=True))
                copies[-1].start()
        time.sleep(POLL_SECONDS)
        codes += [code for dvc in running if (code := dvc.poll()) is not None]
        running = [dvc for dvc in running if dvc.returncode is None]
        if answered and waiting() and not being_timed():  # sending takes a core for seconds
            answered = send_or_warn() == 0
    for copy in copies:
        copy.join(COPY_SECONDS)
    return next(filter(None, codes), 0)


def copy_lines(stream: IO[str]) -> None:
    """Copy what a command reports to this one's stderr."""
    for line in stream:
        sys.stderr.write(line)
        sys.stderr.flush()


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
