"""Finds code that compares with the name of a variant: what differs between variants is in their objects."""

import ast
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def comparisons_with(names: Iterable[str]) -> list[str]:
    """Place and text of every comparison in the core and in the commands that contains one of `names`."""
    wanted, comparisons = set(names), list[str]()
    for path in [*(ROOT / "atspeed_core").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and _strings(node) & wanted:
                comparisons.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    return comparisons


def _strings(node: ast.AST) -> set[str]:
    return {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}
