"""Variants in a package written for the purpose: a file more is a variant more."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from atspeed_core.errors import UserError
from atspeed_core.variants import Variants


@dataclass(frozen=True)
class Shape:
    corners: int


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Variants[Shape]:
    package = f"shapes_of_{tmp_path.name}"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, corners in {"triangle": 3, "square": 4, "_drawing": 0}.items():
        (folder / f"{name}.py").write_text(f"from {__name__} import Shape\nSHAPE = Shape({corners})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    return Variants(package, Shape, "shape", order=lambda shape: shape.corners)


def add(shapes: Variants[Shape], content: str) -> None:
    folder = Path(str(__import__(shapes.package).__path__[0]))
    (folder / "added.py").write_text(content)


def test_names_are_the_modules_and_import_none_of_them(shapes: Variants[Shape]) -> None:
    assert shapes.names() == ("square", "triangle")
    assert f"{shapes.package}.square" not in sys.modules


def test_all_follows_the_order(shapes: Variants[Shape]) -> None:
    assert [shape.corners for shape in shapes.all().values()] == [3, 4]


def test_an_unknown_name_is_the_users_mistake_and_names_the_known_ones(shapes: Variants[Shape]) -> None:
    with pytest.raises(UserError, match="shape 'circle' is unknown; known: square, triangle"):
        shapes.get("circle")


def test_a_file_more_is_a_variant_more(shapes: Variants[Shape]) -> None:
    add(shapes, f"from {__name__} import Shape\nSHAPE = Shape(5)\n")
    assert shapes.get("added").corners == 5
    assert shapes.names() == ("added", "square", "triangle")


def test_a_module_that_declares_none_is_a_defect(shapes: Variants[Shape]) -> None:
    add(shapes, "")
    with pytest.raises(TypeError, match="declares 0 Shape objects"):
        shapes.get("added")
