"""The one way in: settings -> checked interactions and items."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from atspeed_core.data.schemas import check_tables
from atspeed_core.data.sources import amazon, atspeed_release, daily, goodreads, movielens, recbole, steam, table, yelp
from atspeed_core.data.tables import Table
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData

logger = logging.getLogger(__name__)

Reader = Callable[[PrepareData], tuple[Table, Table | None]]

READERS: dict[str, Reader] = {
    "movielens": movielens.read,
    "amazon": amazon.read,
    "goodreads": goodreads.read,
    "steam": steam.read,
    "yelp": yelp.read,
    "recbole": recbole.read,
    "table": table.read,
    "daily": daily.read,
    "atspeed_release": atspeed_release.read,
}


@dataclass(frozen=True)
class Source:
    """What a source holds.

    Attributes:
        interactions: user_id, item_id str or categories of str; where known rating (a float) and timestamp int64
            (unix seconds); for a published split also part ("train", "valid" or "test"). In the order of the
            source; the index is the line or row of the file.
        items: item_id, title, text str; one row an item, not necessarily every item of `interactions`.
        path: the file (or folder) of the interactions.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    path: Path


def read_source(settings: PrepareData) -> Source:
    """Read and check the source that `settings` names.

    Raises:
        UserError: a file is missing or unreadable, a column is missing, or values are wrong (all are listed).
    """
    _warn_of_ignored(settings)
    interactions, items = READERS[settings.source](settings)
    checked = check_tables([interactions] if items is None else [interactions, items])
    if checked[0].empty:
        raise UserError(f"{interactions.path}: no interactions, only a header; give a file with rows")
    known = checked[1] if items is not None else pd.DataFrame({"item_id": [], "title": [], "text": []}, dtype="str")
    return Source(checked[0], known, interactions.path)


# Values that ask for nothing, of settings that must be named also where a source has no use for them.
WITHOUT_EFFECT = {"k_core": 1, "duplicates": "all"}


def _warn_of_ignored(settings: PrepareData) -> None:
    ignored = {"rating_threshold", "k_core", "duplicates"} if settings.split == "published" else set()
    if settings.source not in ("table", "atspeed_release"):
        ignored |= {"items_path"} if settings.source == "recbole" else {"items_path", "columns"}
    for name in sorted(ignored & settings.model_fields_set):
        if getattr(settings, name) != WITHOUT_EFFECT.get(name):
            logger.warning("prepare_data.%s is ignored: source %s has no use for it", name, settings.source)
