"""MovieLens: the CSV files of "latest", the "::" files of 1M, or the embedded pair of Parquet files."""

from pathlib import Path

import pandas as pd

from atspeed_core.data.tables import Table, read_delimited, read_parquet, require_columns
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData

RATINGS = ["userId", "movieId", "rating", "timestamp"]
MOVIES = ["movieId", "title", "genres"]


def read(settings: PrepareData) -> tuple[Table, Table]:
    """Read the ratings and movies of the folder `settings.path`.

    Raises:
        UserError: the folder holds none of the three layouts, or a file is unreadable or lacks a column.
    """
    folder = Path(settings.path)
    for suffix in (".parquet", ".csv", ".dat"):
        if (folder / f"ratings{suffix}").is_file():
            return _ratings(folder / f"ratings{suffix}"), _movies(folder / f"movies{suffix}")
    raise UserError(f"{folder}: no ratings.parquet, ratings.csv or ratings.dat in it; set prepare_data.path")


def _ratings(path: Path) -> Table:
    frame = _read(path, RATINGS)
    return Table(frame, path, dict(zip(["user_id", "item_id", "rating", "timestamp"], RATINGS, strict=True)))


def _movies(path: Path) -> Table:
    frame = _read(path, MOVIES)
    genres = frame["genres"].replace("(no genres listed)", "").str.replace("|", ", ")
    text = (frame["title"] + ". " + genres).str.strip(". ")
    return Table(frame.assign(text=text), path, {"item_id": "movieId", "title": "title", "text": "text"})


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    if path.suffix == ".parquet":
        frame = read_parquet(path)
    elif path.suffix == ".csv":
        frame = read_delimited(path, ",")
    else:  # 1M: no header, and quotes are part of the titles
        frame = read_delimited(path, "::", names=columns, encoding="latin-1", quoted=False)
    require_columns(frame, path, columns)
    return frame
