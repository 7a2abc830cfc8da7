"""Titles and texts of the items that may be kept, out of the metadata files of public data sets."""

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from atspeed_core.data.filtering import may_stay
from atspeed_core.data.records import read_records
from atspeed_core.data.tables import Table
from atspeed_core.settings import PrepareData

MAX_TEXT = 1000  # characters; sentence encoders see less

MARKUP = re.compile(r"<[^<>]{0,200}>")

Describe = Callable[..., tuple[str, str]]


def read_descriptions(
    path: Path, interactions: Table, settings: PrepareData, fields: list[str], describe: Describe
) -> Table:
    """Title and text of each item that may be left after threshold and k-core; the first record of an item counts.

    Args:
        path: the file of item records.
        interactions: what is known of the items' popularity.
        settings: threshold and k-core.
        fields: what is read of a record; the first is the item's id.
        describe: the values of the other fields -> title and text.

    Raises:
        UserError: the file is unreadable (see `read_records`).
    """
    wanted = may_stay(interactions.frame, settings)
    found: dict[str, tuple[int, str, str]] = {}
    for frame in read_records(path, fields):
        for line, item, *values in frame.itertuples(name=None):
            item_id = str(item).strip()
            if item_id in wanted and item_id not in found:
                found[item_id] = (line, *describe(*values))
    lines = pd.Index([line for line, _, _ in found.values()], dtype="int64", name="line")
    texts = {"title": [title for _, title, _ in found.values()], "text": [text for _, _, text in found.values()]}
    frame = pd.DataFrame({"item_id": list(found), **texts}, index=lines, dtype="str")
    return Table(frame, path, {name: name for name in ("item_id", "title", "text")})


def plain(value: Any) -> str:
    """A field as text: lists (of lists) become "a, b", entities characters, None and markup a blank; one line."""
    if isinstance(value, list | tuple):
        return ", ".join(text for text in map(plain, value) if text)
    text = "" if value is None else MARKUP.sub(" ", html.unescape(str(value)))
    return " ".join(text.split())


def sentences(*values: Any) -> str:
    """The fields as "title. category. brand", at most `MAX_TEXT` characters."""
    return ". ".join(text for text in map(plain, values) if text)[:MAX_TEXT]
