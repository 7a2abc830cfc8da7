"""Titles and texts of items, from the metadata records of public data sets or from a table."""

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from atspeed_core.data.filtering import may_remain
from atspeed_core.data.records import read_records
from atspeed_core.data.tables import Table, read_table, require_columns
from atspeed_core.settings import Columns, PrepareData

MAX_TEXT = 1000  # characters; sentence encoders see less

MARKUP = re.compile(r"<[^<>]{0,200}>")

Describe = Callable[..., tuple[str, str]]


def read_descriptions(
    path: Path, interactions: Table, settings: PrepareData, fields: list[str], describe: Describe
) -> Table:
    """Title and text of each item that may remain after threshold and k-core; the first record of an item counts.

    Args:
        path: the file of item records.
        interactions: they show which items are frequent enough.
        settings: threshold and k-core.
        fields: those to read of a record; the first is the item's id.
        describe: the values of the other fields -> title and text.

    Raises:
        UserError: the file is unreadable (see `read_records`).
    """
    wanted = may_remain(interactions.frame, settings)
    described: dict[str, tuple[int, str, str]] = {}
    for frame in read_records(path, fields):
        for line, item, *values in frame.itertuples(name=None):
            item_id = str(item).strip()
            if item_id in wanted and item_id not in described:
                described[item_id] = (line, *describe(*values))
    lines = pd.Index([line for line, _, _ in described.values()], dtype="int64", name="line")
    texts = {
        "title": [title for _, title, _ in described.values()],
        "text": [text for _, _, text in described.values()],
    }
    frame = pd.DataFrame({"item_id": list(described), **texts}, index=lines, dtype="str")
    return Table(frame, path, {name: name for name in ("item_id", "title", "text")})


def read_item_table(items_path: str | None, columns: Columns) -> Table | None:
    """Item ids, titles and texts from the table at `items_path`; None without a path.

    Raises:
        UserError: the file is unreadable or lacks a column that `columns` names.
    """
    if items_path is None:
        return None
    path = Path(items_path)
    frame = read_table(path)
    described = [*([columns.title] if columns.title is not None else []), *columns.text]
    require_columns(frame, path, [columns.item, *described], "set prepare_data.columns (title may be null)")
    title = frame[columns.title] if columns.title is not None else ""
    items = pd.DataFrame({columns.item: frame[columns.item], "title": title, "text": joined(frame, described)})
    return Table(items, path, {"item_id": columns.item, "title": "title", "text": "text"})


def joined(frame: pd.DataFrame, columns: list[str]) -> pd.Series:
    """The columns' texts, one per row, as sentences: "title. category. brand"."""
    text = pd.Series("", index=frame.index, dtype="str")
    for column in columns:
        own = frame[column].astype("str").fillna("").str.strip()
        text = text.where(own == "", text.where(text == "", text + ". ") + own)
    return text


def plain(value: Any) -> str:
    """A field as text: lists (of lists) become "a, b", entities characters, None and markup a blank; one line."""
    if isinstance(value, list | tuple):
        return ", ".join(text for text in map(plain, value) if text)
    text = "" if value is None else MARKUP.sub(" ", html.unescape(str(value)))
    return " ".join(text.split())


def sentences(*values: Any) -> str:
    """The fields as "title. category. brand", at most `MAX_TEXT` characters."""
    return ". ".join(text for text in map(plain, values) if text)[:MAX_TEXT]
