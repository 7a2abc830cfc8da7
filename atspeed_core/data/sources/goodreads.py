"""Goodreads (UCSD Book Graph): interactions as JSON, which have times, or as CSV, which have none; and the books.

    goodreads_interactions_poetry.json.gz   goodreads_books_poetry.json.gz      one genre, or all (..._dedup, books)
    goodreads_interactions.csv              book_id_map.csv                     its own ids, and the books' ids

Plain or gzipped.
"""

import logging
from pathlib import Path
from typing import Any

from atspeed_core.data.clock import web_clock
from atspeed_core.data.compact import compacted
from atspeed_core.data.descriptions import plain, read_descriptions, sentences
from atspeed_core.data.origins import Origin, located, missing
from atspeed_core.data.records import read_records
from atspeed_core.data.sources import Source
from atspeed_core.data.tables import Table, read_delimited, read_delimited_chunks, require_columns
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData

ORIGINS = (
    Origin(
        "Goodreads",
        "goodreads_interactions_GENRE.json.gz (with times; goodreads_interactions.csv and book_id_map.csv have none) "
        "and goodreads_books_GENRE.json.gz",
        "https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html",
        "for academic use, with citation; no redistribution, no commercial use",
    ),
)

NAMES = {"user_id": "user_id", "item_id": "book_id", "rating": "rating", "timestamp": "date_added"}
CLOCK = web_clock("%a %b %d %H:%M:%S %z %Y")  # Sun Jul 30 07:44:10 -0700 2017
FIELDS = ["book_id", "title", "popular_shelves", "description"]
MAX_SHELVES = 5
NO_SUBJECTS = {"to-read", "currently-reading", "owned", "favorites", "books-i-own", "default", "wish-list", "library"}

logger = logging.getLogger(__name__)


def read(settings: PrepareData) -> tuple[Table, Table]:
    """Read the interactions at `settings.path` (a file, or a folder with one) and the books next to them.

    The time is that of `date_added`: every interaction has one, and most have no other. A rating of 0 means no rating.

    Raises:
        UserError: a file is missing (the line says where to get it) or damaged, or the split needs times and the
            file is the CSV.
    """
    patterns = [f"goodreads_interactions*.{ending}" for ending in ("json", "json.gz", "csv", "csv.gz")]
    path = located(Path(settings.path), patterns, "interactions", ORIGINS)
    books = located(path.parent, ["goodreads_books*.json", "goodreads_books*.json.gz"], "books", ORIGINS)
    if ".csv" in path.suffixes:
        interactions = _without_times(path, settings)
    else:
        interactions = compacted(read_records(path, list(NAMES.values())), path, NAMES, CLOCK)
    return interactions, read_descriptions(books, interactions, settings, FIELDS, _describe)


def _without_times(path: Path, settings: PrepareData) -> Table:
    remedy = "goodreads_interactions_GENRE.json.gz has them"
    if settings.split == "chronological":
        raise UserError(f"{path}: has no times, and split is chronological; {remedy}, or set split to leave_one_out")
    logger.warning("%s: has no times; the order of a history is that of the file. %s", path, remedy)
    names = {ours: name for ours, name in NAMES.items() if ours != "timestamp"}
    table = compacted(read_delimited_chunks(path, ","), path, names)
    books = _book_ids(path.with_name("book_id_map.csv"))
    unknown = table.frame["item_id"].cat.categories.difference(list(books))
    if len(unknown):
        raise UserError(f"{path}: book_id {unknown[0]!r} is not in book_id_map.csv; take both from one download")
    table.frame["item_id"] = table.frame["item_id"].map(books)
    return table


def _book_ids(path: Path) -> dict[str, str]:
    """The id in the CSV -> the id in the file of books."""
    if not path.is_file():
        raise missing(path, ORIGINS)
    frame, columns = read_delimited(path, ","), ["book_id_csv", "book_id"]
    require_columns(frame, path, columns)
    return dict(zip(*(frame[column] for column in columns), strict=True))


def _describe(title: Any, shelves: Any, description: Any) -> tuple[str, str]:
    named = [str(shelf.get("name", "")) for shelf in shelves or [] if isinstance(shelf, dict)]
    subjects = [name.replace("-", " ") for name in named if name not in NO_SUBJECTS]
    return plain(title), sentences(title, subjects[:MAX_SHELVES], description)


SOURCE = Source(
    name="goodreads",
    order=30,
    summary="a folder with the interactions and books of Goodreads, as published",
    read=read,
    origins=ORIGINS,
)
