"""A run that was killed with SIGKILL leaves nothing running: real `dvc`, real processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
# A stage that starts a process in a session of its own, as torchrun does, and then works for a long time.
STAGE = """
import subprocess, sys, time
from pathlib import Path
from tasks.stage import stage
with stage("prepare_data", Path("params.yaml")):
    worker = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path("worker.pid").write_text(str(worker.pid))
    if not Path("quick").exists():
        time.sleep(600)
    worker.kill()
    Path("results").mkdir(exist_ok=True)
    Path("results/summary.md").write_text("the table\\n")
"""
WIRING = "stages: {slow: {cmd: python slow.py, outs: [results/summary.md]}}\n"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A DVC project whose only stage is the one above; nothing of it runs when the test is over."""
    (tmp_path / "slow.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text(WIRING)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    yield tmp_path
    for process in of_project(tmp_path):
        process.kill()


def environment(project: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    site = str(project / ".dvc" / "tmp" / "site")
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "DVC_SITE_CACHE_DIR": site, "MAKELEVEL": "1"}


def start(project: Path, *command: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, cwd=project, env=environment(project), stderr=(project / "log").open("ab"))


def of_project(project: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cwd", "status"]) if p.info["cwd"] == str(project)]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def working(project: Path) -> bool:
    return (project / "worker.pid").exists() and (project / "worker.pid").read_text() != ""


@pytest.mark.parametrize("command", [["-m", "dvc", "repro"], ["-m", "tasks.pipeline"]], ids=["dvc", "make run"])
def test_killing_the_run_ends_its_stage_and_what_that_started(project: Path, command: list[str]) -> None:
    run = start(project, sys.executable, *command)
    wait_until(lambda: working(project), "the stage did not start")
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_until(lambda: not of_project(project), "something still runs", seconds=20)


def test_killing_make_ends_all_and_the_next_run_finishes(project: Path) -> None:
    (project / "Makefile").write_text(f"run:\n\t@exec {sys.executable} -m tasks.pipeline\n")
    make = start(project, "make", "run")
    wait_until(lambda: working(project), "the stage did not start")
    make.send_signal(signal.SIGKILL)
    make.wait()
    (project / "quick").touch()
    assert start(project, "make", "run").wait(timeout=60) == 0, (project / "log").read_text()
    assert (project / "results" / "summary.md").read_text() == "the table\n"
    assert not of_project(project)


def test_what_a_killed_stage_left_ends_before_the_next_one_starts(project: Path) -> None:
    first = start(project, sys.executable, "slow.py")
    wait_until(lambda: working(project), "the stage did not start")
    worker = psutil.Process(int((project / "worker.pid").read_text()))
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert worker.is_running()
    (project / "quick").touch()
    assert start(project, sys.executable, "slow.py").wait(timeout=60) == 0
    assert not worker.is_running()


def test_a_second_run_at_a_time_is_refused(project: Path) -> None:
    start(project, sys.executable, "-m", "tasks.pipeline")
    wait_until(lambda: working(project), "the stage did not start")
    second = start(project, sys.executable, "-m", "tasks.pipeline")
    assert second.wait(timeout=60) == 75
    assert "another `make run` is under way" in (project / "log").read_text()
