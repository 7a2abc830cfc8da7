"""Steam reviews, version 2 (UCSD): steam_reviews.json.gz and steam_games.json.gz, one Python dict per line."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from atspeed_core.data.clock import web_clock
from atspeed_core.data.compact import compacted
from atspeed_core.data.descriptions import plain, read_descriptions, sentences
from atspeed_core.data.origins import RESEARCH, Origin, located
from atspeed_core.data.records import read_records
from atspeed_core.data.sources import Source
from atspeed_core.data.tables import Table
from atspeed_core.settings import PrepareData

ORIGINS = (
    Origin(
        "Steam",
        "steam_reviews.json.gz and steam_games.json.gz",
        "https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        RESEARCH,
    ),
)

NAMES = {"user_id": "username", "item_id": "product_id", "timestamp": "date"}
CLOCK = web_clock("%Y-%m-%d")
FIELDS = ["id", "title", "app_name", "genres", "tags", "developer"]

logger = logging.getLogger(__name__)


def read(settings: PrepareData) -> tuple[Table, Table]:
    """Read the reviews at `settings.path` (a file, or a folder with one) and the games next to them.

    There are no ratings, and times are whole days. Reviews without a user name are left out and counted.

    Raises:
        UserError: a file is missing (the line says where to get it) or damaged.
    """
    path = located(Path(settings.path), ["steam_reviews.json", "steam_reviews.json.gz"], "reviews", ORIGINS)
    games = located(path.parent, ["steam_games.json", "steam_games.json.gz"], "games", ORIGINS)
    interactions = compacted(_with_users(path), path, NAMES, CLOCK)
    return interactions, read_descriptions(games, interactions, settings, FIELDS, _describe)


def _with_users(path: Path) -> Iterator[pd.DataFrame]:
    nameless = 0
    for frame in read_records(path, list(NAMES.values())):
        named = frame["username"].map(lambda name: name is not None and bool(str(name).strip()))
        nameless += int((~named).sum())
        yield frame[named]
    if nameless:
        logger.warning("%s: %d reviews without a user name are left out", path, nameless)


def _describe(title: Any, name: Any, *texts: Any) -> tuple[str, str]:
    shown = plain(title) or plain(name)
    return shown, sentences(shown, *texts)


SOURCE = Source(
    name="steam",
    order=40,
    summary="a folder with the reviews and games of Steam, as published",
    read=read,
    origins=ORIGINS,
)
