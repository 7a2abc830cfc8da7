"""Plain tables: one CSV, TSV or Parquet file of interactions and optionally one of items, columns named in params."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from atspeed_core.data.compact import compacted
from atspeed_core.data.descriptions import read_item_table
from atspeed_core.data.sources import Source
from atspeed_core.data.tables import Table, is_tsv, read_delimited_chunks, read_parquet, require_columns
from atspeed_core.settings import PrepareData


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
        return compacted(_chunks(path), path, names, remedy=remedy), read_item_table(settings.items_path, columns)
    frame = read_parquet(path)
    require_columns(frame, path, list(names.values()), remedy)
    return Table(frame, path, names), read_item_table(settings.items_path, columns)


def _chunks(path: Path) -> Iterator[pd.DataFrame]:
    return read_delimited_chunks(path, "\t", quoted=False) if is_tsv(path) else read_delimited_chunks(path, ",")


SOURCE = Source(
    name="table",
    order=70,
    summary="a CSV, TSV or Parquet file; `columns` names its columns, `items_path` a file of titles",
    read=read,
    uses=("items_path", "columns"),
)
