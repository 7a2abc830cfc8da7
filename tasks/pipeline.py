"""`make run`: everything that is out of date, through `dvc repro`, then the table.

One at a time in a folder. A run that was killed may leave processes behind (see tasks/processes.py): they are ended
first, or the two would write the same files.

Where cores allow, drafts are aligned and evaluated several at a time, each as soon as what it needs is there, by a `dvc
repro --single-item` of its own: DVC gives up its lock of the project while a stage's command runs and keeps two stages
from writing the same files. An evaluation that reads the clock has the machine to itself (tasks/machine_lock.py). The
last `dvc repro` goes over all stages, so what it leaves in dvc.lock is what it would leave without this.
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import typer
import yaml

from atspeed_core.data.sources import absent
from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.settings import load_params
from tasks.environment import RUN_ID, SENDER
from tasks.machine_lock import being_timed, machine_shared, num_waiting
from tasks.paths import RESULTS
from tasks.processes import end_orphans, end_tree, end_with, make_above, own_children
from tasks.stage import exit_codes, set_up_logging
from tasks.stage_clock import StageClock, show_seconds
from tasks.threads import num_cores, num_threads
from tasks.tracking import send_or_warn, waiting

LOCK = Path(".dvc/tmp/make-run.lock")
WAIT_SECONDS = 10.0  # for a predecessor that was killed to notice and end
POLL_SECONDS = 0.5
MOST_WAITING = 2  # jobs beyond the cores, each with its models in memory, that wait to read the clock
COPY_SECONDS = 5.0  # for the last lines of a command that has ended
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
REPRO = (*DVC, "repro")
BEFORE_DRAFTS = "cache_topk"  # every stage that an alignment needs is this one or comes before it
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
    # Ctrl-C ends the stage; dvc then says so and ends as well. A function, as dvc would inherit SIG_IGN.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    with StageClock() as clock:
        for jobs in rounds(environment, at_once):
            code = code or run_side_by_side(jobs, at_once, environment)
    signal.signal(signal.SIGINT, before)
    return code, clock.seconds


@dataclass(frozen=True)
class Job:
    """A command of a round.

    Attributes:
        command: what is run.
        stage: DVC's name of the stage that it runs; empty: several stages.
        needs: stages of the same round that must have ended before.
        disturbs: whether nothing may be timed while it runs; an evaluation sees to that itself.
    """

    command: list[str]
    stage: str = ""
    needs: frozenset[str] = frozenset()
    disturbs: bool = False

    @classmethod
    def single(cls, stage: str, *needs: str, disturbs: bool = False) -> "Job":
        """Run one stage if it is out of date."""
        return cls([*REPRO, "--single-item", stage], stage, frozenset(needs), disturbs)


def rounds(environment: dict[str, str], at_once: int) -> list[list[Job]]:
    """What is run one round after the other; jobs of a round may run side by side."""
    everything = [Job([*REPRO])]
    stale = None if at_once < 2 else stale_stages(environment)
    if not stale:
        return [everything]
    evaluations = matrix_stages(Path("dvc.yaml"), "evaluate")
    drafts = matrix_stages(Path("dvc.yaml"), "align_draft") if stale - AFTER_DRAFTS else []
    # Long jobs first: sft, the first method, takes the least time, so that at the end no core waits for long.
    jobs = [Job.single(draft, disturbs=True) for draft in reversed(drafts)]
    jobs[1:1] = [Job.single("evaluate_target")] if evaluations else []
    for evaluation in reversed(evaluations):
        own_draft = evaluation.replace("evaluate@", "align_draft@")
        jobs.append(Job.single(evaluation, "evaluate_target", *({own_draft} & set(drafts))))
    return [[Job([*REPRO, BEFORE_DRAFTS])], jobs, everything] if len(jobs) > 1 else [everything]


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


def run_side_by_side(jobs: list[Job], at_once: int, environment: dict[str, str]) -> int:
    """Run jobs, `at_once` of them at a time; after a failure none is started. Returns the first exit code not 0.

    A job that waits to read the clock computes nothing, so another may run in its place.
    """
    to_start, running, answered = list(jobs), list[Running](), True
    ended: set[str] = set()
    codes: list[int] = []
    while running or (to_start and not any(codes)):
        while not any(codes) and not being_timed() and (job := next_job(to_start, ended, running, at_once)):
            to_start.remove(job)
            running.append(Running.start(job, environment, alone=len(jobs) == 1))
        time.sleep(POLL_SECONDS)
        for one in [one for one in running if one.process.poll() is not None]:
            codes.append(one.end())
            ended.add(one.job.stage)
            running.remove(one)
        if answered and waiting() and not being_timed():  # sending takes a core for seconds
            answered = send_or_warn() == 0
    return next(filter(None, codes), 0)


def next_job(to_start: list[Job], ended: set[str], running: list["Running"], at_once: int) -> Job | None:
    """The first job that can start now, if there is a core for one more."""
    if len(running) - num_waiting() >= at_once or len(running) >= at_once + MOST_WAITING:
        return None
    return next((job for job in to_start if job.needs <= ended), None)


@dataclass(frozen=True)
class Running:
    """A job that was started, and what ends with it."""

    job: Job
    process: subprocess.Popen[str]
    held: ExitStack

    @classmethod
    def start(cls, job: Job, environment: dict[str, str], *, alone: bool) -> "Running":
        """Start a job; unless it is `alone`, only whole lines of its stderr appear, and no progress bars."""
        held = ExitStack()
        if job.disturbs:
            held.enter_context(machine_shared())
        errors = None if alone else subprocess.PIPE
        process = subprocess.Popen(job.command, env=environment, stderr=errors, text=True)
        if process.stderr:
            copy = threading.Thread(target=copy_lines, args=(process.stderr,), daemon=True)
            copy.start()
            held.callback(copy.join, COPY_SECONDS)
        return cls(job, process, held)

    def end(self) -> int:
        """Release what the job held; its exit code."""
        self.held.close()
        return self.process.returncode


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
