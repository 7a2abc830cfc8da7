"""Progress where nobody watches is a log line; where somebody does, a bar. What is looped over stays as it is."""

import io
import logging
import sys
from pathlib import Path

import pytest

from atspeed_core import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.json").write_bytes(b"x" * 3_000_000)
    return tmp_path / "a.json"


def read(path: Path) -> list[int]:
    with path.open("rb") as raw:
        parts = iter(lambda: len(raw.read(1_000_000)), 0)
        return list(progress.track_file(parts, "reading a.json", raw))


def test_a_file_is_logged_in_megabytes(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        assert read(file) == [1_000_000] * 3
    assert [message.rpartition(", ")[0] for message in caplog.messages[:3]] == [
        f"reading a.json: {done} of 3 MB" for done in (1, 2, 3)
    ]
    assert caplog.messages[3].startswith("reading a.json: done, 3.0 MB in ")


def test_a_file_has_a_bar_on_a_terminal(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert read(file) == [1_000_000] * 3
    assert "3.0/3.0 MB" in sys.stderr.getvalue()  # type: ignore[attr-defined]
