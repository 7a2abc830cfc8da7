"""Which processes belong to a run, and how they end when the run that started them was killed.

A killed `dvc` leaves its stage running, and a killed stage leaves the processes of torchrun running. So a process that
starts others marks them with its own identity, ends when its own starter is gone, and first ends the processes that a
killed predecessor left behind.
"""

import contextlib
import os
import threading
import time
from pathlib import Path

import psutil

from tasks.environment import OWNER  # "pid:time of its start:project folder", handed down through the environment

POLL_SECONDS = 0.5
SAME_START_SECONDS = 2.0  # clocks that are set while a process runs move the time of its start a little
EXIT_ABANDONED = 75


def own_children(folder: Path) -> None:
    """Mark all processes that this one will start as its own."""
    me = psutil.Process()
    os.environ[OWNER] = f"{me.pid}:{me.create_time():.2f}:{folder.resolve()}"


def end_with_starter(folder: Path) -> None:
    """End this process and its descendants as soon as the run that it belongs to is gone."""
    end_with(dvc_above())
    if marked(dict(os.environ), folder):
        owner = owner_in(dict(os.environ), folder)
        if owner is None:  # gone before this process could look
            end_tree()
        end_with(owner)


def end_with(starter: psutil.Process | None) -> None:
    """End this process and its descendants as soon as `starter`, if there is one, is gone."""
    if starter is not None:
        threading.Thread(target=_watch, args=(starter,), daemon=True).start()


def end_orphans(folder: Path) -> list[int]:
    """End the processes of this project whose owner is gone; returns their ids."""
    excluded = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    orphans = [p for p in psutil.process_iter() if p.pid not in excluded and _is_orphan(p, folder)]
    kill(orphans)
    return [orphan.pid for orphan in orphans]


def marked(environment: dict[str, str], folder: Path) -> bool:
    """Whether a process with this environment was started by one of ours for the project in `folder`."""
    return environment.get(OWNER, "").endswith(f":{folder.resolve()}")


def owner_in(environment: dict[str, str], folder: Path) -> psutil.Process | None:
    """The owner in the environment of a marked process; None: it is gone, or the process is not marked."""
    if not marked(environment, folder):
        return None
    pid, started, _ = environment[OWNER].split(":", 2)
    with contextlib.suppress(psutil.Error):
        owner = psutil.Process(int(pid))
        if is_alive(owner) and abs(owner.create_time() - float(started)) < SAME_START_SECONDS:
            return owner
    return None


def dvc_above() -> psutil.Process | None:
    """The `dvc` command that started this process; None: it was not started by one."""
    return _above({"dvc"}) if "DVC_STAGE" in os.environ else None


def make_above() -> psutil.Process | None:
    """The `make` that started this process; None: it was not started by one."""
    return _above({"make", "gmake"}) if "MAKELEVEL" in os.environ else None


def is_alive(process: psutil.Process) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_tree() -> None:
    """End this process and all its descendants immediately."""
    with contextlib.suppress(psutil.Error):
        kill(psutil.Process().children(recursive=True))
    os._exit(EXIT_ABANDONED)


def kill(processes: list[psutil.Process]) -> None:
    """End processes and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _watch(starter: psutil.Process) -> None:
    while is_alive(starter):
        time.sleep(POLL_SECONDS)
    end_tree()


def _above(names: set[str]) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        for parent in psutil.Process().parents():
            if names & {Path(part).name for part in parent.cmdline()[:3]}:  # python -m dvc, python .../bin/dvc
                return parent
    return None


def _is_orphan(process: psutil.Process, folder: Path) -> bool:
    try:
        environment = process.environ()
    except (psutil.Error, OSError):  # ended meanwhile, or another user's
        return False
    return marked(environment, folder) and owner_in(environment, folder) is None
