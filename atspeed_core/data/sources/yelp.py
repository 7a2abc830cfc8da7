"""Yelp Open Dataset: yelp_academic_dataset_review.json and yelp_academic_dataset_business.json."""

from pathlib import Path
from typing import Any

from atspeed_core.data.clock import web_clock
from atspeed_core.data.compact import compacted
from atspeed_core.data.descriptions import plain, read_descriptions, sentences
from atspeed_core.data.origins import Origin, located
from atspeed_core.data.records import read_records
from atspeed_core.data.sources import Source
from atspeed_core.data.tables import Table
from atspeed_core.settings import PrepareData

ORIGINS = (
    Origin(
        "Yelp",
        "yelp_academic_dataset_review.json and yelp_academic_dataset_business.json",
        "https://business.yelp.com/data/resources/open-dataset/",
        "for academic use under Yelp's agreement; no redistribution",
    ),
)

NAMES = {"user_id": "user_id", "item_id": "business_id", "rating": "stars", "timestamp": "date"}
CLOCK = web_clock("%Y-%m-%d %H:%M:%S")
FIELDS = ["business_id", "name", "categories", "city"]


def read(settings: PrepareData) -> tuple[Table, Table]:
    """Read the reviews at `settings.path` (a file, or a folder with one) and the businesses next to them.

    Raises:
        UserError: a file is missing (the line says where to get it) or damaged.
    """
    path = located(Path(settings.path), _names("review"), "reviews", ORIGINS)
    businesses = located(path.parent, _names("business"), "businesses", ORIGINS)
    interactions = compacted(read_records(path, list(NAMES.values())), path, NAMES, CLOCK)
    return interactions, read_descriptions(businesses, interactions, settings, FIELDS, _describe)


def _names(what: str) -> list[str]:
    return [f"yelp_academic_dataset_{what}.{ending}" for ending in ("json", "json.gz")]


def _describe(name: Any, *texts: Any) -> tuple[str, str]:
    return plain(name), sentences(name, *texts)


SOURCE = Source(
    name="yelp",
    order=50,
    summary="a folder with the reviews and businesses of Yelp, as published",
    read=read,
    origins=ORIGINS,
)
