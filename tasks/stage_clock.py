"""How long each stage of a run took, seen from outside: from the start of its process to its end."""

import contextlib
import logging
import threading
import time

import psutil
from rich.console import Console
from rich.table import Table

POLL_SECONDS = 0.5
STAGE_VARIABLE = "DVC_STAGE"  # DVC names the stage to the command that it runs

log = logging.getLogger(__name__)


class StageClock:
    """Watches the stages among the descendants of this process, in a thread of its own, from `with` to its end.

    Attributes:
        seconds: of the stages that have ended, by DVC's names for them.
    """

    def __init__(self) -> None:
        """Nothing has run yet."""
        self.seconds: dict[str, float] = {}
        self._running: dict[str, psutil.Process] = {}
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StageClock":
        """Begin to watch."""
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look a last time."""
        self._over.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._look()
        self._look()

    def _look(self) -> None:
        """Note which stages run now and report those that have ended since the last look."""
        now = time.time()
        current = stages_below(psutil.Process())
        for name, process in current.items():
            self._running.setdefault(name, process)
        for name in self._running.keys() - current.keys():
            self.seconds[name] = now - self._running.pop(name).create_time()
            log.info("%s took %.0f s", name, self.seconds[name])


def stages_below(process: psutil.Process) -> dict[str, psutil.Process]:
    """DVC's name -> the first process of each stage that runs below `process`."""
    running: dict[str, psutil.Process] = {}
    for child in process.children(recursive=True):  # parents before their children
        with contextlib.suppress(psutil.Error, OSError):  # ended meanwhile
            name = child.environ().get(STAGE_VARIABLE)
            if name:
                running.setdefault(name.rpartition(":")[2], child)
    return running


def show_seconds(seconds: dict[str, float]) -> None:
    """Print the stages that ran, with their seconds; nothing where none ran."""
    if not seconds:
        return
    table = Table("stage", "seconds", title="What this run computed")
    table.columns[1].justify = "right"
    for name, value in seconds.items():
        table.add_row(name, f"{value:.0f}")
    Console().print(table)
