"""Plain tables: one CSV, TSV or Parquet file of interactions and optionally one of items, columns named in params."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from atspeed_core.data.compact import compacted
from atspeed_core.data.tables import Table, read_delimited, read_delimited_chunks, read_parquet, require_columns
from atspeed_core.settings import Columns, PrepareData


def read(settings: PrepareData) -> tuple[Table, Table | None]:
    """Read the interactions at `settings.path` and the items at `settings.items_path`, if that is set.

    Raises:
        UserError: a file is unreadable or lacks a column that `settings.columns` names.
    """
    path, columns = Path(settings.path), settings.columns
    optional = {"rating": columns.rating, "timestamp": columns.timestamp}
    names = {"user_id": columns.user, "item_id": columns.item}
    names |= {ours: file for ours, file in optional.items() if file is not None}
    remedy = "set prepare_data.columns (rating and timestamp may be null)"
    if path.suffix != ".parquet":
        return compacted(_chunks(path), path, names, remedy=remedy), read_items(settings.items_path, columns)
    frame = read_parquet(path)
    require_columns(frame, path, list(names.values()), remedy)
    return Table(frame, path, names), read_items(settings.items_path, columns)


def read_items(items_path: str | None, columns: Columns) -> Table | None:
    """Read item ids, titles and further text; None without a path.

    Raises:
        UserError: the file is unreadable or lacks a column that `columns` names.
    """
    if items_path is None:
        return None
    path, frame = Path(items_path), read_file(Path(items_path))
    described = [*([columns.title] if columns.title is not None else []), *columns.text]
    require_columns(frame, path, [columns.item, *described], "set prepare_data.columns (title may be null)")
    title = frame[columns.title] if columns.title is not None else ""
    items = pd.DataFrame({columns.item: frame[columns.item], "title": title, "text": joined(frame, described)})
    return Table(items, path, {"item_id": columns.item, "title": "title", "text": "text"})


def read_file(path: Path) -> pd.DataFrame:
    """Read a table by the ending of its name: .parquet, .tsv or .tsv.gz (no quoting), else CSV."""
    if path.suffix == ".parquet":
        return read_parquet(path)
    return read_delimited(path, "\t", quoted=False) if _is_tsv(path) else read_delimited(path, ",")


def _chunks(path: Path) -> Iterator[pd.DataFrame]:
    return read_delimited_chunks(path, "\t", quoted=False) if _is_tsv(path) else read_delimited_chunks(path, ",")


def _is_tsv(path: Path) -> bool:
    return path.name.endswith((".tsv", ".tsv.gz"))


def joined(frame: pd.DataFrame, columns: list[str]) -> pd.Series:
    """The columns' texts, one a row, as sentences: "title. category. brand"."""
    text = pd.Series("", index=frame.index, dtype="str")
    for column in columns:
        own = frame[column].astype("str").fillna("").str.strip()
        text = text.where(own == "", text.where(text == "", text + ". ") + own)
    return text
