"""The operator with real processes: what each exit code means to Airflow, and that nothing is left running."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from atspeed_dags import command
from atspeed_dags.command import CommandOperator, command_line

PROGRAM = """
import json, os, sys, time, subprocess, pathlib
what = sys.argv[1]
if what == "answer":
    pathlib.Path(os.environ["ATSPEED_ANSWER"]).write_text(json.dumps({"arguments": sys.argv[2:], "shards": [0, 1]}))
elif what == "sleep":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path("started").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
elif what == "leave":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path("started").write_text(f"{os.getpid()} {child.pid}")
else:
    print("first line", file=sys.stderr)
    print("feed.csv: row 3: no such item; mend the file", file=sys.stderr)
    sys.exit(int(what))
"""


class Instance:
    """The part of a task instance that the operator talks to."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def operator(folder: Path, *arguments: str, **options: Any) -> CommandOperator:
    return CommandOperator(task_id="t", module="program", arguments=arguments, folder=str(folder), **options)


def run(task: CommandOperator) -> tuple[Any, dict[str, Any]]:
    instance = Instance()
    context: Any = {"ti": instance, "outlet_events": {}}
    return task.execute(context), instance.pushed


def test_the_answer_is_returned_and_each_field_pushed(folder: Path) -> None:
    value, pushed = run(operator(folder, "answer", "a b", "$(touch hacked)", mapped=["; exit 1"]))
    assert value == {"arguments": ["a b", "$(touch hacked)", "; exit 1"], "shards": [0, 1]}
    assert pushed == value
    assert not (folder / "hacked").exists()


def test_one_field_can_be_the_return_value(folder: Path) -> None:
    assert run(operator(folder, "answer", returns="shards"))[0] == [0, 1]


@pytest.mark.parametrize(
    ("code", "error"), [("2", AirflowFailException), ("99", AirflowSkipException), ("75", AirflowException)]
)
def test_exit_codes(folder: Path, code: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="row 3: no such item") as raised:
        run(operator(folder, code))
    assert type(raised.value) is error


def test_a_crash_is_tried_again(folder: Path) -> None:
    with pytest.raises(AirflowException, match="exit code 1") as raised:
        run(operator(folder, "no number"))
    assert type(raised.value) is AirflowException


def test_killing_the_task_ends_the_command_and_its_children(folder: Path) -> None:
    task = operator(folder, "sleep")
    failed: list[Exception] = []

    def execute() -> None:
        try:
            run(task)
        except AirflowException as error:
            failed.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    pids = started(folder)
    task.on_kill()
    thread.join(30)
    assert not thread.is_alive()
    assert failed
    assert not any(alive(pid) for pid in pids)


def test_children_that_outlive_the_command_are_ended(folder: Path) -> None:
    run(operator(folder, "leave"))
    assert not any(alive(pid) for pid in started(folder))


def test_empty_arguments_are_left_out() -> None:
    line = command_line("m", ["--a=", "", "--b=1", "--full-retrain", "", {"x": 1}])
    assert line == [command.PYTHON, "-m", "m", "--b=1", "--full-retrain", '{"x": 1}']
    assert sys.executable == command.PYTHON


def started(folder: Path) -> list[int]:
    deadline = time.monotonic() + 30
    while not (folder / "started").exists() or not (folder / "started").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int(pid) for pid in (folder / "started").read_text().split()]


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
