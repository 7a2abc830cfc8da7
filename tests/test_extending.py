"""The examples of docs/extending.md: each is added to a copy of the project, tested, counted and removed again."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_project import copy_project

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```\w+\n(?:# (\S+)|<!-- (\S+) -->)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| an? ([\w ]+?) \| (\d+) \|", re.MULTILINE)

# Tests that would notice a list in which the addition is missing, besides those of dvc.yaml's wiring.
LISTS = {
    "DAG": ("tests/dags/test_policies.py",),
    "alignment method": ("tests/test_methods.py",),
    "drafter": ("tests/test_drafters.py",),
    "setting": ("tests/settings/test_one_place.py::test_every_value_stands_in_one_place",),
    "metric": ("tests/metrics/test_registry.py", "tests/tasks/test_report.py"),
    "verification": ("tests/test_verifications.py",),
    "data source": ("tests/data/test_sources.py",),
}
WIRING = "tests/tasks/test_wiring.py"

# Imports what the tests need and then forks for each of them: importing torch takes longer than the tests.
SERVER = """
import json, os, sys
import hypothesis, pandera.pandas, pytest, pytest_timeout, scipy.stats, torch, transformers.models.llama.modeling_llama
PYTEST = ["-p", "no:cacheprovider", "-p", "pytest_timeout", "--basetemp", "../temporary"]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(os.open("../output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        code = int(pytest.main(["-q", *PYTEST, *json.loads(line)]))
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


def sections() -> dict[str, dict[str, str]]:
    """Section of the guide, such as "data source" -> path -> content of the section's code blocks."""
    titled = re.split(r"^## An? (.*)\n", GUIDE, flags=re.MULTILINE)[1:]
    return {
        title: {code or text: content for code, text, content in BLOCK.findall(body)}
        for title, body in zip(titled[::2], titled[1::2], strict=True)
    }


EXAMPLES = {title: blocks for title, blocks in sections().items() if blocks}
FILES_TO_TOUCH = {title: int(count) for title, count in ROW.findall(GUIDE)}


@dataclass
class Copy:
    """A copy of the project under git, and a process that runs tests in it."""

    folder: Path
    server: Any

    def touched(self) -> list[str]:
        """Files that are new or changed, without what git ignores."""
        command = ["git", "status", "--porcelain", "--untracked-files=all"]
        lines = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout.splitlines()
        return [line[3:] for line in lines]

    def add(self, blocks: dict[str, str]) -> dict[str, str | None]:
        """Write each block to its path, rows at the end of a page's table; returns what was there before."""
        before = dict[str, str | None]()
        for name, content in blocks.items():
            path = self.folder / name
            before[name] = path.read_text(encoding="utf-8") if path.exists() else None
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(with_rows(before[name] or "", content) if path.suffix == ".md" else content)
        return before

    def restore(self, before: dict[str, str | None]) -> None:
        """Undo `add`."""
        for name, content in before.items():
            if content is None:
                (self.folder / name).unlink()
            else:
                (self.folder / name).write_text(content, encoding="utf-8")

    def test(self, *files: str) -> tuple[int, str]:
        """Exit code and output of pytest for `files`."""
        self.server.stdin.write(json.dumps(files) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline()), (self.folder.parent / "output").read_text()


def with_rows(page: str, rows: str) -> str:
    """`page` with `rows` at the end of its first table that has as many columns."""
    columns, lines = rows.splitlines()[0].count("|"), page.splitlines(keepends=True)
    end = next(number for number, line in enumerate(lines) if line.startswith("|") and line.count("|") == columns)
    while lines[end].startswith("|"):
        end += 1
    return "".join([*lines[:end], rows, *lines[end:]])


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    folder = tmp_path_factory.mktemp("extending") / "project"
    folder.mkdir()
    copy_project(folder)
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "--all"], [*identity, "commit", "-q", "--no-verify", "-m", "copy"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with server:
        yield Copy(folder, server)


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_works_touches_as_few_files_as_promised_and_can_be_removed(title: str, copy: Copy) -> None:
    blocks = EXAMPLES[title]
    assert copy.touched() == []
    before = copy.add(blocks)
    try:
        assert sorted(copy.touched()) == sorted(blocks)
        own = [name for name in blocks if name.startswith("tests/")]
        assert own, "an example has a test"
        code, output = copy.test(*own, *LISTS.get(title, ()), WIRING)
        assert code == 0, output
    finally:
        copy.restore(before)
    assert copy.touched() == []
    if title in FILES_TO_TOUCH:
        assert len(blocks) == FILES_TO_TOUCH[title]


def test_an_example_that_fails_is_noticed(copy: Copy) -> None:
    before = copy.add({"tests/test_wrong.py": "def test_wrong() -> None:\n    assert 1 == 2\n"})
    code, output = copy.test("tests/test_wrong.py")
    copy.restore(before)
    assert code == 1
    assert "assert 1 == 2" in output


def test_every_row_of_the_table_has_its_example() -> None:
    assert FILES_TO_TOUCH
    assert set(FILES_TO_TOUCH) <= set(EXAMPLES)
