"""Interactions by day: the folder that the nights append to, YYYY-MM-DD.parquet and items.parquet."""

from pathlib import Path

from atspeed_core.data.partitions import COLUMNS, ITEMS, read_partitions
from atspeed_core.data.sources import Source
from atspeed_core.data.tables import Table, read_parquet, require_columns
from atspeed_core.settings import PrepareData


def read(settings: PrepareData) -> tuple[Table, Table | None]:
    """Read all days in the folder `settings.path`, oldest first, and its items.parquet, if there is one.

    Raises:
        UserError: there is no day in the folder, or a file is unreadable or lacks a column.
    """
    folder = Path(settings.path)
    frame = read_partitions(folder)
    rated = frame["rating"].notna().any()
    names = [column for column in COLUMNS if rated or column != "rating"]
    return Table(frame, folder, {name: name for name in names}), _items(folder / ITEMS)


def _items(path: Path) -> Table | None:
    if not path.is_file():
        return None
    frame, names = read_parquet(path), ["item_id", "title", "text"]
    require_columns(frame, path, names)
    return Table(frame, path, {name: name for name in names})


SOURCE = Source(
    name="daily",
    order=80,
    summary="a folder with one `YYYY-MM-DD.parquet` per day and `items.parquet`, as the nights write it",
    read=read,
)
