"""What reads the clock has the machine to itself: evaluations side by side take turns when they time.

The evaluations of a project's folder share one lock. One that only computes holds it together with others; one that
times requests holds it alone, and no other evaluation runs meanwhile.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

LOCK = Path(".dvc/tmp/clock.lock")  # of the folder that the stage runs in

log = logging.getLogger(__name__)


@contextmanager
def machine_shared(lock: Path = LOCK) -> Iterator[None]:
    """While others may compute as well; waits until nothing is being timed."""
    with _held(lock, fcntl.LOCK_SH, "waiting: another evaluation of this project is being timed"):
        yield


@contextmanager
def machine_alone(lock: Path = LOCK) -> Iterator[None]:
    """While requests are timed; waits until no other evaluation computes."""
    with _held(lock, fcntl.LOCK_EX, "waiting to read the clock: another evaluation of this project computes"):
        yield


def being_timed(lock: Path = LOCK) -> bool:
    """Whether something is being timed, so that nothing else should start."""
    if not lock.exists():
        return False
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def num_waiting(lock: Path = LOCK) -> int:
    """How many processes wait for the lock, and so compute nothing."""
    marks = lock.parent.glob(f"{lock.name}.*")
    return sum(psutil.pid_exists(int(mark.suffix[1:])) for mark in marks)


@contextmanager
def _held(path: Path, kind: int, waiting: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:  # the lock ends with the file, and with the process
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s", waiting)
            mark = path.with_name(f"{path.name}.{os.getpid()}")
            mark.touch()
            fcntl.flock(file, kind)
            mark.unlink(missing_ok=True)
        yield
