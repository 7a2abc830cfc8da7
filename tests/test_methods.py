"""Methods: each is one file that says everything about it."""

import subprocess
import sys
from pathlib import Path

import pytest

from atspeed_core.methods import METHODS, wired_methods
from atspeed_core.reporting import paper_figures
from atspeed_core.settings import method_names
from tests.comparisons import comparisons_with

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_has_the_name_of_its_file(name: str) -> None:
    method = METHODS.get(name)
    assert method.name == name
    assert method.summary.endswith(".")


def test_orders_are_distinct() -> None:
    orders = [method.order for method in METHODS.all().values()]
    assert len(set(orders)) == len(orders)


def test_what_aligns_says_along_which_sequences() -> None:
    for method in METHODS.all().values():
        assert (method.loss is None) == (method.sequences is None), method.name


def test_the_paper_s_methods_are_those_with_a_row_in_it() -> None:
    assert {method.name for method in METHODS.all().values() if method.paper_row} == paper_figures.METHODS


def test_listing_them_imports_no_torch() -> None:
    code = (
        "import sys; from atspeed_core.settings import method_names; method_names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert method_names() == list(METHODS.all())


def test_the_rows_of_the_documentation_are_methods_in_their_order_and_name_the_paper_s_row() -> None:
    lines = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").splitlines()
    first = lines.index("| method | L_align, mean over contexts | along | row of the paper |") + 2
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first : lines.index("", first)]]
    rows = {name.strip("`"): row for name, *_, row in table}
    assert list(rows) == [name for name in METHODS.all() if name in rows]
    assert {*wired_methods(), *paper_figures.METHODS} <= rows.keys()
    assert rows == {name: METHODS.get(name).paper_row or "beyond the paper" for name in rows}


def test_no_code_compares_with_a_name() -> None:
    """What differs from one method to another is in its object."""
    assert comparisons_with(METHODS.names()) == []
