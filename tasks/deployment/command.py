"""What every nightly command shares: log lines, exit codes, and an answer for the one who called it.

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
    """There is nothing to do, and that is no fault; the message says why."""


@contextmanager
def command(name: str) -> Iterator[None]:
    """Run the body of a nightly command; under a DAG it ends, and its children with it, when its task does."""
    set_up_logging(name)
    if Deployment.from_environment().answer:
        end_with(psutil.Process(os.getppid()))
    with exit_codes():
        try:
            yield
        except NothingToDo as nothing:
            log.warning("%s", nothing)
            sys.exit(EXIT_NOTHING_TO_DO)


def answer(value: dict[str, Any]) -> None:
    """Give the caller a small JSON object: into the file that ATSPEED_ANSWER names, else printed."""
    if path := Deployment.from_environment().answer:
        write_json(path, value)
    else:
        print(json.dumps(value, indent=2))
