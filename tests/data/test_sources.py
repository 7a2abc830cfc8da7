"""What the sources declare, and what all of them have in common; tests/data/sources/ has a file for each."""

import re
from pathlib import Path

import pytest

from atspeed_core.data.sources import SOURCES, absent
from atspeed_core.settings import PrepareData
from tests.source_files import mistake, settings_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"


@pytest.mark.parametrize("name", SOURCES.names())
def test_a_source_has_the_name_of_its_file_and_a_test(name: str) -> None:
    source = SOURCES.get(name)
    assert source.name == name
    assert set(source.uses) <= set(PrepareData.model_fields)
    assert (Path(__file__).parent / "sources" / f"test_{name}.py").exists()


def test_every_source_has_its_row_in_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8").split("## Sources")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")][1:]
    assert [row[:2] for row in rows] == [[f"`{name}`", source.summary] for name, source in SOURCES.all().items()]
    for row, source in zip(rows, SOURCES.all().values(), strict=True):
        assert re.findall(r"\]\((.*?)\)", " ".join(row[2:])) == [origin.page for origin in source.origins]


def test_a_split_that_does_not_suit_the_source(tmp_path: Path) -> None:
    assert "'atspeed_release' is split already; set split to published" in mistake(
        tmp_path, "atspeed_release", split="leave_one_out"
    )
    assert "'table' has no published split" in mistake(tmp_path, "table", split="published")


def test_what_is_absent_is_named_with_what_to_do(tmp_path: Path) -> None:
    assert absent(settings_of(tmp_path, "yelp")) is None
    assert "not there; set prepare_data.path, or get Yelp: " in str(absent(settings_of(tmp_path / "no", "yelp")))
    assert str(absent(settings_of(tmp_path / "no", "table"))).endswith("not there; set prepare_data.path")


def test_where_to_get_missing_files_is_said_with_the_terms(tmp_path: Path) -> None:
    message = mistake(tmp_path / "nowhere", "amazon")
    assert message.startswith(f"{tmp_path / 'nowhere'}: no reviews")
    for address in (
        "~jmcauley/datasets/amazon/links.html",
        "nijianmo.github.io/amazon",
        "amazon-reviews-2023.github.io",
    ):
        assert address in message
    assert "for research, with citation" in message
    for source, address in {
        "goodreads": "datasets/goodreads.html",
        "steam": "datasets.html#steam_data",
        "yelp": "business.yelp.com/data/resources/open-dataset",
    }.items():
        assert address in mistake(tmp_path, source)
