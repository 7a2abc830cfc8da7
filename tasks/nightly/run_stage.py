"""Brings one DVC stage of the night's checkout up to date and its outputs to the remote.

Stages of different methods may run at the same time in one checkout. A killed attempt leaves no process behind
(those of the stage end with this one, see tasks/processes.py), and the next attempt succeeds.
"""

import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from atspeed_core.errors import TemporaryError, UserError
from tasks.deployment.checkout import STATE
from tasks.deployment.dvc_project import drop_stale_locks, dvc_project, exit_code_in, guard_lock_file, push
from tasks.deployment.workflow import answer, command
from tasks.environment import RUN_ID
from tasks.nightly.night import Night, load_night
from tasks.processes import end_orphans, end_tree, own_children

if TYPE_CHECKING:  # takes a second to import
    from dvc.repo import Repo

WAIT_SECONDS = 20.0  # for an earlier attempt, killed elsewhere, to notice and end
POLL_SECONDS = 0.5

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    stage: Annotated[str, typer.Argument(help="Stage of dvc.yaml.")],
    method: Annotated[str | None, typer.Option(help="Draft method, for a stage that runs once per method.")] = None,
) -> None:
    """Run a stage of the night in this checkout if it is out of date, and push what it wrote."""
    with command("run_stage"):
        signal.signal(signal.SIGTERM, lambda *_: end_tree())
        night = load_night()
        answer(bring_up_to_date(night, target_of(stage, method, night)))


def target_of(stage: str, method: str | None, night: Night) -> str:
    """The stage as DVC names it, STAGE or STAGE@METHOD.

    Raises:
        UserError: dvc.yaml has no such stage, or the method is missing, superfluous or not one of this night.
    """
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    if stage not in stages:
        raise UserError(f"'{stage}': not a stage of dvc.yaml; known: {', '.join(stages)}")
    if "matrix" not in stages[stage]:
        if method is not None:
            raise UserError(f"stage {stage} is the same for all methods; omit --method")
        return stage
    if method not in night.methods:
        raise UserError(f"stage {stage}: --method must be one of {', '.join(night.methods)}")
    return f"{stage}@{method}"


def bring_up_to_date(night: Night, target: str) -> dict[str, Any]:
    """Reproduce and push one stage; in a dry run, report what would be done."""
    started = time.monotonic()
    os.environ[RUN_ID] = night.run_id
    with only_attempt(target):
        end_orphans(Path())
        own_children(Path())
        with dvc_project() as repo:
            drop_stale_locks(repo)
            ran = False
            if night.dry_run:
                log.info("dry run: %s %s", target, "would run" if would_run(repo, target) else "is up to date")
            else:
                guard_lock_file(repo)
                ran = reproduce(repo, night, target)
                guard_lock_file(repo)
                push(repo, [target])
    return {"stage": target, "ran": ran, "seconds": round(time.monotonic() - started, 1)}


def reproduce(repo: "Repo", night: Night, target: str) -> bool:
    """Run the stage if it is stale or forced; returns whether its command ran.

    If the stage's command fails, this process ends with the same exit code; the last line of the log states the reason.
    """
    from dvc.exceptions import ReproductionError

    forced_before = STATE / "forced" / target
    force = night.force in ("all", target.split("@")[0]) and not forced_before.exists()
    if force:
        pull_inputs(repo, target)
    commands = _CommandsRun()
    with commands.watched():
        try:
            repo.reproduce(target, single_item=True, pull=True, allow_missing=True, force=force)
        except ReproductionError as error:
            if code := exit_code_in(error):
                end_orphans(Path())  # processes of a stage that was killed
                sys.exit(code)
            raise
    if force:
        forced_before.parent.mkdir(parents=True, exist_ok=True)
        forced_before.touch()
    return commands.count > 0


def would_run(repo: "Repo", target: str) -> bool:
    """Whether a stage, or one that it depends on, is stale; data that are only in the remote do not make it so."""
    with repo.lock:
        graph = repo.index.graph  # edges from a stage to those that it depends on
        stages = list(repo.stage.collect(target))
        for stage in stages:  # grows within the loop
            if stage.changed(allow_missing=True):
                return True
            stages += [dependency for dependency in graph.successors(stage) if dependency not in stages]
    return False


def pull_inputs(repo: "Repo", target: str) -> None:
    """Fetch the inputs of a stage that are only in the remote; DVC does not when a stage is forced."""
    (stage,) = repo.stage.collect(target)
    if missing := [dep.def_path for dep in stage.deps if not dep.exists]:
        repo.pull(missing)


class _CommandsRun(logging.Filter):
    """Counts the stage commands that DVC starts; a stage restored from the run cache starts none."""

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.count += str(record.msg).startswith("Running stage")
        return True

    @contextmanager
    def watched(self) -> Iterator[None]:
        logger = logging.getLogger("dvc.stage.run")
        logger.addFilter(self)
        try:
            yield
        finally:
            logger.removeFilter(self)


@contextmanager
def only_attempt(target: str) -> Iterator[None]:
    """Hold the lock of this stage in this checkout; it is released when the process ends, on any machine.

    Raises:
        TemporaryError: another attempt holds it for longer than WAIT_SECONDS.
    """
    path = STATE / "attempts" / target
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TemporaryError(f"another attempt at {target} is under way in this checkout") from None
                time.sleep(POLL_SECONDS)
        yield


if __name__ == "__main__":
    app()
