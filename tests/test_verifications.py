"""Verifications: each is one file, and nobody else compares with its name."""

import ast
from pathlib import Path

import pytest

from atspeed_core.verifications import VERIFICATIONS, primary

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", VERIFICATIONS.names())
def test_a_verification_has_the_name_of_its_file(name: str) -> None:
    verification = VERIFICATIONS.get(name)
    assert verification.name == name
    assert verification.summary.endswith(".")


def test_one_verification_is_primary() -> None:
    assert [v for v in VERIFICATIONS.all().values() if v.primary] == [primary()]
    assert primary().lossless


def test_no_code_compares_with_a_name() -> None:
    """What differs from one verification to another is in its object."""
    faults = []
    for path in [*(ROOT / "atspeed_core").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            compares = isinstance(node, ast.Compare) and _strings(node) & set(VERIFICATIONS.names())
            if compares and "speculation" not in ast.unparse(node):  # a plan's choice may be "none"
                faults.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert faults == []


def _strings(node: ast.AST) -> set[str]:
    return {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)}
