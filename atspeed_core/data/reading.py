"""Settings -> the checked interactions and items of the source that they name."""

import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from atspeed_core.data.schemas import check_tables
from atspeed_core.data.sources import SOURCES, Source
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData

logger = logging.getLogger(__name__)

FOR_SOME_SOURCES = {"items_path", "columns"}
# Without effect where the split is the published one, which is taken as it is.
BEFORE_THE_SPLIT = {"rating_threshold", "k_core", "duplicates"}
# Values that ask for nothing, of settings that must be named even where a source does not use them.
WITHOUT_EFFECT = {"k_core": 1, "duplicates": "all"}


@dataclass(frozen=True)
class SourceTables:
    """What a source holds.

    Attributes:
        interactions: user_id, item_id str or categories of str; where known rating (a float) and timestamp int64
            (unix seconds); for a published split also part ("train", "valid" or "test"). In the order of the
            source; the index is the line or row of the file.
        items: item_id, title, text str; one row per item, not necessarily every item of `interactions`.
        path: the file (or folder) of the interactions.
    """

    interactions: pd.DataFrame
    items: pd.DataFrame
    path: Path


def read_source(settings: PrepareData) -> SourceTables:
    """Read and check the source that `settings` names.

    Raises:
        UserError: the split does not suit the source, a file is missing or unreadable, a column is missing, or values
            are wrong (all are listed).
    """
    source = SOURCES.get(settings.source)
    _check_split(settings, source)
    _warn_of_ignored(settings, source)
    interactions, items = source.read(settings)
    checked = check_tables([interactions] if items is None else [interactions, items])
    if checked[0].empty:
        raise UserError(f"{interactions.path}: no interactions, only a header; give a file with rows")
    known = checked[1] if items is not None else pd.DataFrame({"item_id": [], "title": [], "text": []}, dtype="str")
    return SourceTables(checked[0], known, interactions.path)


def _check_split(settings: PrepareData, source: Source) -> None:
    if source.is_split and settings.split != "published":
        raise UserError(f"prepare_data: source '{source.name}' is split already; set split to published")
    if settings.split == "published" and not source.is_split:
        raise UserError(f"prepare_data: source '{source.name}' has no published split; choose another value of split")


def _warn_of_ignored(settings: PrepareData, source: Source) -> None:
    ignored = (FOR_SOME_SOURCES - set(source.uses)) | (BEFORE_THE_SPLIT if source.is_split else set())
    for name in sorted(ignored & settings.model_fields_set):
        if getattr(settings, name) != WITHOUT_EFFECT.get(name):
            logger.warning("prepare_data.%s is ignored: source %s does not use it", name, source.name)
