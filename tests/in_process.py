"""Commands called in the test's own process: a process of their own would import torch first, for five seconds."""

import importlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
STAGE_ENVIRONMENT = {
    "ATSPEED_OWNER": "",  # a stage sets it for the processes that it starts
    "ATSPEED_SENDER": "test",  # the stage's record stays in outbox/
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


def run_stage(folder: Path, name: str, *arguments: str, **environment: str) -> None:
    """Run a stage that has to succeed in `folder`, with the code of this project."""
    done = call(f"tasks.{name}", *arguments, folder=folder, **STAGE_ENVIRONMENT, **environment)
    assert done.exit_code == 0, done.output


def call(module: str, *arguments: str, folder: Path, **environment: str) -> Result:
    """Call the command of a module (its `app`) with `folder` as working folder; what it raises is raised here."""
    app = importlib.import_module(module).app
    with working_in(folder), logging_as_before():
        done = CliRunner().invoke(app, arguments, env=environment)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def answer_of(module: Any, *arguments: str) -> dict[str, Any]:
    """The answer of a command that has to succeed."""
    result = CliRunner().invoke(module.app, arguments)
    assert result.exit_code == 0, f"{result.output} {result.exception!r}"
    return dict(json.loads(result.stdout))


def refusal_of(module: Any, *arguments: str) -> str:
    """The line of a command that has to end as the user's mistake."""
    result = CliRunner().invoke(module.app, arguments)
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make `folder` the working folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def logging_as_before() -> Iterator[None]:
    """Restore the root logger: a command logs to a stream that is closed when it ends."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
