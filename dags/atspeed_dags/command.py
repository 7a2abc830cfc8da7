"""The operator behind every task: one command of `tasks/` as a process of its own.

The process runs in the ML environment (ATSPEED_PYTHON), which Airflow's environment need not contain. Its arguments are
passed as a list, never through a shell. Its exit code decides what Airflow does next.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

PROJECT = Path(os.environ.get("ATSPEED_PROJECT") or Path(__file__).resolve().parents[2])
PYTHON = os.environ.get("ATSPEED_PYTHON") or sys.executable

EXIT_USER_ERROR = 2
EXIT_NOTHING_TO_DO = 99
SECONDS_TO_END = 20  # between SIGTERM and SIGKILL
LAST_LINES = 5  # of the output, for the message of a failure


class CommandOperator(BaseOperator):
    """Run `python -m MODULE ARGUMENTS`; every field of its JSON answer becomes an XCom of the task.

    Exit code 0: success. 2: the user's mistake, fails at once. 99: nothing to do, skipped. Any other: an
    infrastructure fault or a defect, retried as the task specifies.

    Args:
        module: what runs, a module of `tasks/`.
        arguments: its arguments; templated. Those that render to "" or "--option=" are left out.
        mapped: further arguments from another task's answer; never rendered.
        folder: where it runs; templated. None: the deployed project.
        returns: the field of the answer that is the task's return value; mapped tasks need a list there. None: the
            whole answer.
    """

    template_fields = ("arguments", "folder")
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        module: str,
        arguments: Sequence[Any] = (),
        mapped: Sequence[str] = (),
        folder: str | None = None,
        returns: str | None = None,
        **options: Any,
    ) -> None:
        """Describe the command; nothing runs yet."""
        super().__init__(**options)
        self.module = module
        self.arguments = arguments
        self.mapped = mapped
        self.folder = folder
        self.returns = returns

    def execute(self, context: Context) -> Any:
        """Run the command; return its answer or one field of it."""
        with tempfile.TemporaryDirectory(prefix="atspeed-") as scratch:
            answer = Path(scratch) / "answer.json"
            code, output = self._run(command_line(self.module, self.all_arguments(context)), answer)
            self._raise_unless_zero(code, output)
            value = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
        for asset in self.outlets:
            context["outlet_events"][asset].extra = value
        for name, field in value.items():
            context["ti"].xcom_push(key=name, value=field)
        return value[self.returns] if self.returns else value

    def all_arguments(self, context: Context) -> list[Any]:
        """The arguments of this run; subclasses add what only the running task knows."""
        return [*self.arguments, *self.mapped]

    def on_kill(self) -> None:
        """End the command and everything that it started."""
        if (process := getattr(self, "_process", None)) is not None:
            end_group(process)

    def _run(self, command: list[str], answer: Path) -> tuple[int, list[str]]:
        self.log.info("running %s", command)
        with subprocess.Popen(
            command,
            cwd=self.folder or PROJECT,
            env={**os.environ, "ATSPEED_ANSWER": str(answer), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as self._process:
            last: deque[str] = deque(maxlen=LAST_LINES)
            reader = threading.Thread(target=self._log_output, args=(self._process, last))
            reader.start()
            try:
                code = self._process.wait()
            finally:
                end_group(self._process)  # processes that still hold the pipe have no owner any more
                reader.join()
        return code, list(last)

    def _log_output(self, process: "subprocess.Popen[str]", last: deque[str]) -> None:
        assert process.stdout is not None
        for line in filter(None, map(str.rstrip, process.stdout)):
            self.log.info("%s", line)
            last.append(line)

    def _raise_unless_zero(self, code: int, output: list[str]) -> None:
        reason = output[-1] if output else "it printed nothing"
        if code == EXIT_NOTHING_TO_DO:
            raise AirflowSkipException(reason)
        if code == EXIT_USER_ERROR:
            raise AirflowFailException(reason)
        if code:
            raise AirflowException(f"exit code {code}: {' | '.join(output) or reason}")


class CloseOperator(CommandOperator):
    """The command that ends a run; it receives the states of the run's other tasks."""

    def all_arguments(self, context: Context) -> list[Any]:
        """`arguments`, then --state and one --failed for every failed task."""
        instance, run = context["ti"], context["dag_run"]
        states = instance.get_task_states(dag_id=run.dag_id, run_ids=[run.run_id])[run.run_id]
        others = {task: state for task, state in states.items() if task != instance.task_id}
        failed = sorted(task for task, state in others.items() if state in ("failed", "upstream_failed"))
        skipped = any(state == "skipped" for state in others.values())
        state = "failed" if failed else "skipped" if skipped else "success"
        causes = [task for task in failed if others[task] == "failed"]
        return [*self.arguments, "--state", state, *(part for task in causes for part in ("--failed", task))]


def command_line(module: str, arguments: Sequence[Any]) -> list[str]:
    """The argument list of a command; arguments that a template left empty ("" or "--option=") are left out."""
    texts = [argument if isinstance(argument, str) else json.dumps(argument) for argument in arguments]
    return [PYTHON, "-m", module, *(argument for argument in texts if argument and not argument.endswith("="))]


def end_group(process: "subprocess.Popen[str]") -> None:
    """SIGTERM to all processes of the command's session, then SIGKILL to those that remain."""
    if _signal(process.pid, signal.SIGTERM):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
        _signal(process.pid, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
