"""MovieLens: the files of every edition, and the pair of Parquet files in this repository.

    ratings.csv, movies.csv     20M, 25M, 32M, latest
    ratings.dat, movies.dat     1M, 10M: "::" between fields, no header
    u.data, u.item              100K: tabs and "|", no header

Ratings are read in chunks: the text of 25M takes a gigabyte.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from atspeed_core.data.compact import compacted
from atspeed_core.data.origins import Origin, located, missing
from atspeed_core.data.sources import Source
from atspeed_core.data.tables import Table, read_delimited, read_delimited_chunks, read_parquet, require_columns
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData

ORIGINS = (
    Origin(
        "MovieLens",
        "ratings.csv and movies.csv (20M, 25M, 32M, latest), ratings.dat and movies.dat (1M, 10M) or u.data and "
        "u.item (100K)",
        "https://grouplens.org/datasets/movielens/",
        "for research, with acknowledgement; no commercial use without permission",
    ),
)

RATINGS = ["userId", "movieId", "rating", "timestamp"]
DAT_RATINGS = ["userId", "", "movieId", " ", "rating", "  ", "timestamp"]  # "::" is two separators of one character
MOVIES = ["movieId", "title", "genres"]
NAMES = dict(zip(["user_id", "item_id", "rating", "timestamp"], RATINGS, strict=True))
ITEM_FIELDS = ["movieId", "title", "released", "on_video", "address"]
GENRES = [
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
]
NO_GENRES = ("(no genres listed)", "unknown")


def read(settings: PrepareData) -> tuple[Table, Table]:
    """Read the ratings and movies of the folder `settings.path`.

    Raises:
        UserError: the folder holds none of the layouts (the line says where to get them), or a file is unreadable
            or lacks a column.
    """
    folder = Path(settings.path)
    for (ratings, read_ratings), (movies, read_movies) in LAYOUTS:
        if (folder / ratings).is_file():
            return read_ratings(folder / ratings), _movies(folder / movies, read_movies)
    located(folder, [ratings for (ratings, _), _ in LAYOUTS], "ratings", ORIGINS)
    raise UserError(f"{folder}: a file; set prepare_data.path to the folder that it is in")


def _movies(path: Path, read_movies: Callable[[Path], pd.DataFrame]) -> Table:
    if not path.is_file():
        raise missing(path, ORIGINS)
    frame = read_movies(path)
    require_columns(frame, path, MOVIES)
    genres = frame["genres"].replace(dict.fromkeys(NO_GENRES, "")).str.replace("|", ", ")
    text = (frame["title"] + ". " + genres).str.strip(". ")
    return Table(frame.assign(text=text), path, {"item_id": "movieId", "title": "title", "text": "text"})


def _parquet_ratings(path: Path) -> Table:
    frame = read_parquet(path)
    require_columns(frame, path, RATINGS)
    return Table(frame, path, NAMES)


def _csv_ratings(path: Path) -> Table:
    return compacted(read_delimited_chunks(path, ","), path, NAMES)


def _dat_ratings(path: Path) -> Table:
    return compacted(read_delimited_chunks(path, ":", names=DAT_RATINGS), path, NAMES)


def _tab_ratings(path: Path) -> Table:
    return compacted(read_delimited_chunks(path, "\t", names=RATINGS), path, NAMES)


def _csv_movies(path: Path) -> pd.DataFrame:
    return read_delimited(path, ",")


def _dat_movies(path: Path) -> pd.DataFrame:
    """Quotes are part of the titles; 1M is Latin-1, 10M is UTF-8."""
    return read_delimited(path, "::", names=MOVIES, encoding=_encoding(path), quoted=False)


def _flagged_movies(path: Path) -> pd.DataFrame:
    """The 0 and 1 of 100K become "Drama|Musical"."""
    frame = read_delimited(path, "|", names=[*ITEM_FIELDS, *GENRES], encoding="latin-1", quoted=False)
    flags = frame[GENRES] == "1"
    genres = ["|".join(genre for genre, has in zip(GENRES, row, strict=True) if has) for row in flags.to_numpy()]
    return frame[["movieId", "title"]].assign(genres=genres)


def _encoding(path: Path) -> str:
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


LAYOUTS = [
    (("ratings.parquet", _parquet_ratings), ("movies.parquet", read_parquet)),
    (("ratings.csv", _csv_ratings), ("movies.csv", _csv_movies)),
    (("ratings.dat", _dat_ratings), ("movies.dat", _dat_movies)),
    (("u.data", _tab_ratings), ("u.item", _flagged_movies)),
]


SOURCE = Source(
    name="movielens",
    order=10,
    summary="a folder with the files of any MovieLens edition",
    read=read,
    origins=ORIGINS,
)
