"""The folder of interactions by day: one Parquet file per day, one for everything before the first day, and items.

    history-before-2026-01-01.parquet   2026-01-01.parquet   2026-01-02.parquet   ...   items.parquet

A file holds user_id, item_id (str), rating (float64, all null if there are none) and timestamp (int64,
unix seconds). A day is a day in UTC. Files are only added, never changed, so a version of the folder costs one day.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from atspeed_core.data.tables import read_parquet, require_columns
from atspeed_core.errors import UserError
from atspeed_core.files import digest, replacing

ITEMS = "items.parquet"
DAY_SECONDS = 86_400
LAYOUT = pa.schema(
    [("user_id", pa.string()), ("item_id", pa.string()), ("rating", pa.float64()), ("timestamp", pa.int64())]
)
ITEMS_LAYOUT = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("text", pa.string())])
COLUMNS = LAYOUT.names
REMEDY = "restore it with: dvc checkout --force"

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_HISTORY = re.compile(r"history-before-(\d{4}-\d{2}-\d{2})")
_SOURCE = b"atspeed.source"  # in a file's metadata: size and digest of the file from which it was written


def day_in(stem: str) -> str | None:
    """The day, YYYY-MM-DD, when `stem` names one."""
    return stem if _DAY.fullmatch(stem) else None


def history_end_in(stem: str) -> str | None:
    """The first day, YYYY-MM-DD, that is not in a history file, when `stem` names one."""
    match = _HISTORY.fullmatch(stem)
    return match[1] if match else None


def history_name(before: str) -> str:
    """The stem of the file with everything before the day `before`."""
    return f"history-before-{before}"


def next_day(day: str) -> str:
    """The day after `day`."""
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def day_start(day: str) -> int:
    """Unix seconds at which `day` begins."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def days_of(timestamps: pd.Series) -> pd.Series:
    """The day, YYYY-MM-DD, of each time in unix seconds."""
    return pd.to_datetime(timestamps, unit="s").dt.strftime("%Y-%m-%d").astype("str")


def partitions(folder: Path) -> list[Path]:
    """The files of interactions in `folder`, oldest first."""
    names = [path for path in folder.glob("*.parquet") if day_in(path.stem) or history_end_in(path.stem)]
    return sorted(names, key=lambda path: (day_in(path.stem) or "", path.stem))


def read_partitions(folder: Path) -> pd.DataFrame:
    """All interactions of `folder`, oldest file first; the index, named "file", gives file and row of each.

    Raises:
        UserError: there is no file of interactions, or one is unreadable or lacks a column.
    """
    paths = partitions(folder)
    if not paths:
        remedy = "ingest a first day, or set prepare_data.path"
        raise UserError(f"{folder}: no file of interactions (YYYY-MM-DD.parquet) in it; {remedy}")
    return pd.concat([_read_partition(path) for path in paths])


def num_interactions(folder: Path) -> int:
    """Number of interactions in `folder`."""
    return sum(pq.read_metadata(path).num_rows for path in partitions(folder))


def write_partition(frame: pd.DataFrame, path: Path, source: Path) -> None:
    """Write the interactions `frame`, read from the file `source`, in the layout of a partition."""
    table = pa.Table.from_pandas(frame.reindex(columns=COLUMNS), schema=LAYOUT, preserve_index=False)
    origin = {_SOURCE: json.dumps(_identity(source))}
    pq.write_table(table.replace_schema_metadata(origin), path, compression="zstd")


def comes_from(path: Path, source: Path, by_content: bool) -> bool:
    """Whether the partition `path` was written from the file `source` in its present state.

    Args:
        path: the partition.
        source: the file with which it is compared.
        by_content: whether a file of the same size is read and compared as well.
    """
    written = json.loads(pq.read_schema(path).metadata.get(_SOURCE, b"{}"))
    same_size = written.get("size") == source.stat().st_size
    return same_size and (not by_content or bool(written == _identity(source)))


def has_ratings(path: Path) -> bool | None:
    """Whether the partition `path` has ratings; None if it has no interactions."""
    ratings = pq.read_table(path, columns=["rating"])["rating"]
    return ratings.null_count < len(ratings) if len(ratings) else None


@contextmanager
def changing(folder: Path) -> Iterator[Path]:
    """Yield a copy of `folder` (empty if there is none) that replaces it; after an error `folder` is unchanged.

    The files of the copy are hard links if the file system supports them: add and replace files, do not modify one.
    """
    with replacing(folder) as copy:
        if folder.is_dir():
            shutil.copytree(folder, copy, copy_function=_link, symlinks=True)
        else:
            copy.mkdir()
        yield copy


def write_items(items: pd.DataFrame, folder: Path) -> None:
    """Write item_id, title and text of `items` into `folder`, replacing earlier ones."""
    (folder / ITEMS).unlink(missing_ok=True)  # it may be a link to another version's file
    table = pa.Table.from_pandas(items, schema=ITEMS_LAYOUT, preserve_index=False)
    pq.write_table(table, folder / ITEMS, compression="zstd")


def _read_partition(path: Path) -> pd.DataFrame:
    frame = read_parquet(path)
    require_columns(frame, path, COLUMNS, REMEDY)
    where = pd.Series(f"{path.name} row ", index=frame.index, dtype="str") + frame.index.astype("str")
    interactions: pd.DataFrame = frame[COLUMNS]
    interactions.index = pd.Index(where, name="file")
    return interactions


def _identity(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "digest": digest([path])}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
