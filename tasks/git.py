"""Runs git: every command of this project that needs git calls it here."""

import os
import subprocess
from pathlib import Path

from atspeed_core.errors import TemporaryError
from tasks.addresses import masked

TIMEOUT_SECONDS = 600  # a clone or push that takes longer hangs
OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set where a hook calls us


def git(*arguments: str, folder: Path = Path(), environment: dict[str, str] | None = None) -> str:
    """Run a git command and return its output.

    Args:
        arguments: of git.
        folder: where it runs.
        environment: further variables for it.

    Raises:
        TemporaryError: it fails. The commands used here fail when a server, a disk or a permission is missing.
    """
    try:
        done = _run(arguments, folder, environment or {}, TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise TemporaryError(f"git {arguments[0]}: did not end within {TIMEOUT_SECONDS} s") from None
    if done.returncode:
        reason = masked("; ".join(done.stderr.strip().splitlines()[-3:]))
        raise TemporaryError(f"git {arguments[0]}: {reason or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def git_if_possible(*arguments: str, folder: Path = Path(), timeout: float = TIMEOUT_SECONDS) -> str | None:
    """Run a git command and return its output; None where it fails or takes over `timeout` seconds."""
    try:
        done = _run(arguments, folder, {}, timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()


def commit_of(revision: str, folder: Path = Path()) -> str | None:
    """The full id of the commit that a tag, a branch or an abbreviated id names; None: there is no such commit."""
    return git_if_possible(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", folder=folder
    )


def _run(
    arguments: tuple[str, ...], folder: Path, environment: dict[str, str], timeout: float
) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_REPOSITORY}
    quiet = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}  # no question that nobody answers; messages as we quote them
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**inherited, **quiet, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
