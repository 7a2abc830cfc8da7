"""The order of the house: the name of a module or class means one thing, and a function fits on one screen.

The number of a function's parameters, branches, returns and statements is limited in pyproject.toml (ruff: PLR09, C90).
"""

import ast
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("atspeed_core", "tasks", "dags", "local_services", "scripts")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MOST_LINES = 45
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def is_named_after_another(path: Path) -> bool:
    """Whether a file has its name on purpose from what stands elsewhere under the same name.

    The settings of a stage or a room are in the file that is called like it, a DAG's file like the command that it is
    about, and a variant's file like the variant: one concept, one name.
    """
    in_settings = path.parent == ROOT / "atspeed_core" / "settings"
    is_dag = path.parent == ROOT / "dags"
    is_variant = "= Variants(" in init.read_text() if (init := path.parent / "__init__.py").exists() else False
    return in_settings or is_dag or is_variant


def test_no_module_name_means_two_things() -> None:
    """A name that two modules share has to be looked up in both; imports and search become guesses."""
    by_name = defaultdict[str, list[Path]](list)
    for path in FILES:
        if path.stem not in ("__init__", "__main__"):
            by_name[path.stem].append(path)
    shared = {name: paths for name, paths in by_name.items() if len(paths) > 1}
    faults = {
        name: [str(path.relative_to(ROOT)) for path in paths]
        for name, paths in shared.items()
        if len([path for path in paths if not is_named_after_another(path)]) > 1
        or any(path.is_relative_to(ROOT / "atspeed_core") for path in paths if not is_named_after_another(path))
    }
    assert faults == {}


def test_no_package_is_called_like_a_module() -> None:
    packages = [path.parent.name for path in FILES if path.name == "__init__.py"]
    assert len(packages) == len(set(packages))
    assert set(packages) & {path.stem for path in FILES if not is_named_after_another(path)} == set()


def test_no_class_name_means_two_things() -> None:
    by_name = defaultdict[str, list[str]](list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                by_name[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: places for name, places in by_name.items() if len(places) > 1} == {}


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_a_function_fits_on_one_screen(folder: str) -> None:
    """At most 45 lines of code, signature included; docstrings, comments and blank lines do not count."""
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {name} has {count} lines"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, line, count in functions(path.read_text(encoding="utf-8"))
        if count > MOST_LINES
    ]
    assert faults == []


def test_what_counts_as_a_line() -> None:
    text = 'def f(\n    a,\n):\n    """Two\n    lines."""\n\n    # why\n    return [\n        a,\n    ]\n'
    assert list(functions(text)) == [("f", 1, 6)]


def functions(text: str) -> Iterator[tuple[str, int, int]]:
    """(name, line, lines of code) of every function in a file's text."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {line for t in tokens if t.type not in LAYOUT for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = code & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            if ast.get_docstring(node) is not None:
                lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
            yield node.name, node.lineno, len(lines)
