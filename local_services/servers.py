"""Starts servers, waits until they answer, and ends them with all processes that they started."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
SECONDS_TO_END = 15
POLL_SECONDS = 0.25


class Server:
    """A server process with its output in a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        folder: Path | None = None,
        account: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the server; nothing starts yet.

        Args:
            name: its name in messages.
            command: argument list.
            environment: the complete environment of the process.
            log: file to which its output is appended.
            folder: where it runs.
            account: the account that owns the process (options user and group of `subprocess`); None: ours.
        """
        self.name = name
        self.command = list(command)
        self.environment = dict(environment)
        self.log = log
        self.folder = folder
        self.account = dict(account or {})
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server in a session of its own."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self.account,
            )

    def stop(self) -> None:
        """End the server; kill it if it does not end in time."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(SECONDS_TO_END)
        self.kill()

    def kill(self) -> None:
        """Kill the server and all processes of its session."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def is_running(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def wait_for(self, answers: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until `answers()`.

        Raises:
            RuntimeError: the server ended or did not answer in time; the message contains the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not answers():
            if not self.is_running() or time.monotonic() > deadline:
                state = "does not answer" if self.is_running() else "ended"
                raise RuntimeError(f"{self.name} {state}; the end of {self.log}:\n{self.last_lines()}")
            time.sleep(POLL_SECONDS)

    def last_lines(self, number: int = 30) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-number:])


def free_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nothing listens on this port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0


def answers(url: str) -> bool:
    """Whether a GET of `url` succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status < 400)
    except (OSError, urllib.error.URLError):
        return False
