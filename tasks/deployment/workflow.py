"""The shell of every command of a workflow: log lines, exit codes, and an answer for the caller.

Exit codes are those of the stages (2: the user's mistake, 75: temporary, 1: a defect) and 99: nothing to do.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from atspeed_core.files import write_json
from tasks.environment import Deployment
from tasks.processes import end_with
from tasks.stage import exit_codes, set_up_logging

EXIT_NOTHING_TO_DO = 99

log = logging.getLogger(__name__)


class NothingToDo(Exception):
    """There is nothing to do, which is not a failure; the message states the reason."""


@contextmanager
def command(name: str) -> Iterator[None]:
    """Run the body of a command. Started by a DAG, it and its children end with their task."""
    set_up_logging(name)
    if Deployment.from_environment().answer:
        end_with(psutil.Process(os.getppid()))
    with exit_codes():
        try:
            yield
        except NothingToDo as reason:
            log.warning("%s", reason)
            sys.exit(EXIT_NOTHING_TO_DO)


def answer(value: dict[str, Any]) -> None:
    """Return a small JSON object to the caller: in the file ATSPEED_ANSWER, else on stdout."""
    if path := Deployment.from_environment().answer:
        write_json(path, value)
    else:
        print(json.dumps(value, indent=2))
