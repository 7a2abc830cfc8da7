"""Amazon reviews by category, editions 2014, 2018 and 2023: reviews or ratings alone, and the products' metadata.

    2014  reviews_Beauty_5.json.gz     ratings_Beauty.csv (user, item, rating, time)    meta_Beauty.json.gz
    2018  Video_Games_5.json.gz        Video_Games.csv (item, user, rating, time)       meta_Video_Games.json.gz
    2023  Video_Games.jsonl.gz         Video_Games.csv (with a header)                  meta_Video_Games.jsonl.gz

The edition is recognised by the fields, not by the name.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atspeed_core.data.clock import Clock, web_clock
from atspeed_core.data.compact import compacted
from atspeed_core.data.descriptions import plain, read_descriptions, sentences
from atspeed_core.data.origins import RESEARCH, Origin, located, missing
from atspeed_core.data.records import Record, first_record, read_records
from atspeed_core.data.sources import Source
from atspeed_core.data.tables import Table, first_line, read_delimited_chunks
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData

ORIGINS = (
    Origin(
        "Amazon 2014",
        "reviews_CATEGORY_5.json.gz and meta_CATEGORY.json.gz",
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        RESEARCH,
    ),
    Origin(
        "Amazon 2018",
        "CATEGORY_5.json.gz and meta_CATEGORY.json.gz",
        "https://nijianmo.github.io/amazon/",
        RESEARCH,
    ),
    Origin(
        "Amazon 2023",
        "CATEGORY.jsonl.gz and meta_CATEGORY.jsonl.gz",
        "https://amazon-reviews-2023.github.io/",
        RESEARCH,
    ),
)

SECONDS, MILLISECONDS = web_clock("s"), web_clock("ms")
NAMES = ["user_id", "item_id", "rating", "timestamp"]
ENDINGS = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz")
META_ENDINGS = (".json.gz", ".jsonl.gz", ".json", ".jsonl")
ASIN = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
TEXTS = ["title", "categories", "category", "brand", "store", "features", "feature", "description"]
UNFORMATTED = "getTime"  # in titles of 2018 that contain a page's script instead

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Edition:
    """How an edition writes its reviews.

    Attributes:
        year: its name.
        fields: of user, item, rating and time.
        clock: how the times are written.
        product: field of the item's id in the metadata.
    """

    year: str
    fields: tuple[str, str, str, str]
    clock: Clock
    product: str


REVIEWS = ("reviewerID", "asin", "overall", "unixReviewTime")
RATINGS = ("user_id", "parent_asin", "rating", "timestamp")
V2014 = Edition("2014", REVIEWS, SECONDS, "asin")
V2018 = Edition("2018", REVIEWS, SECONDS, "asin")
V2023 = Edition("2023", RATINGS, MILLISECONDS, "parent_asin")


def read(settings: PrepareData) -> tuple[Table, Table]:
    """Read the reviews at `settings.path` (a file, or a folder with one) and the products' metadata next to them.

    Raises:
        UserError: a file is missing (the line says where to get it), is none of the three editions, or is damaged.
    """
    path = _reviews(Path(settings.path))
    metadata = _metadata(path)
    interactions, edition = _ratings(path) if ".csv" in path.suffixes else _full_reviews(path)
    logger.info("%s: Amazon reviews, edition %s, %d of them", path, edition.year, len(interactions.frame))
    fields = [edition.product, *TEXTS]
    return interactions, read_descriptions(metadata, interactions, settings, fields, _describe)


def _reviews(path: Path) -> Path:
    if path.is_file():
        return path
    named = [f for f in path.glob("*") if f.name.endswith(ENDINGS) and not f.name.startswith(("meta_", "."))]
    return located(path, [file.name for file in named] or ["*.json.gz"], "reviews", ORIGINS)


def _metadata(reviews: Path) -> Path:
    category = re.sub(r"^(reviews|ratings)_|(_\d+)?\.(jsonl?|csv)(\.gz)?$", "", reviews.name)
    for ending in META_ENDINGS:
        if (path := reviews.with_name(f"meta_{category}{ending}")).is_file():
            return path
    raise missing(reviews.with_name(f"meta_{category}.json.gz"), ORIGINS)


def _full_reviews(path: Path) -> tuple[Table, Edition]:
    edition = _edition(path, first_record(path))
    names = dict(zip(NAMES, edition.fields, strict=True))
    return compacted(read_records(path, list(edition.fields)), path, names, edition.clock), edition


def _edition(path: Path, record: Record) -> Edition:
    if record.keys() >= set(REVIEWS):
        return V2014 if "helpful" in record else V2018
    if record.keys() >= set(RATINGS):
        return V2023
    wanted = f"{', '.join(REVIEWS)} (2014, 2018) or {', '.join(RATINGS)} (2023)"
    raise UserError(f"{path}: line 1: fields {', '.join(record)[:200]}, expected {wanted}; give a file of reviews")


def _ratings(path: Path) -> tuple[Table, Edition]:
    if set(RATINGS) <= set(first_line(path).split(",")):
        names = dict(zip(NAMES, RATINGS, strict=True))
        return compacted(read_delimited_chunks(path, ","), path, names, MILLISECONDS), V2023
    edition, columns = _layout(path)
    frames = read_delimited_chunks(path, ",", names=columns)
    return compacted(frames, path, {name: name for name in NAMES}, SECONDS), edition


def _layout(path: Path) -> tuple[Edition, list[str]]:
    """Edition and columns of a file without a header; which of the first two has product numbers shows it."""
    rows = next(read_delimited_chunks(path, ",", names=NAMES)).head(1000)
    first, second = (rows[name].map(lambda text: bool(ASIN.fullmatch(text))).mean() for name in NAMES[:2])
    if max(first, second) < 0.5:
        remedy = "give a ratings file of 2014 (user, item, rating, time) or 2018 (item, user, rating, time)"
        raise UserError(f"{path}: line 1: no product number in the first two fields; {remedy}")
    return (V2018, ["item_id", "user_id", *NAMES[2:]]) if first > second else (V2014, NAMES)


def _describe(title: Any, *texts: Any) -> tuple[str, str]:
    shown = "" if UNFORMATTED in str(title) else plain(title)
    return shown, sentences(shown, *texts)


SOURCE = Source(
    name="amazon",
    order=20,
    summary="a folder with the reviews of a category and their metadata, edition 2014, 2018 or 2023",
    read=read,
    origins=ORIGINS,
)
