"""Reading text and Parquet tables: every way in which a file can be unreadable is one clear line."""

import csv
import gzip
import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from atspeed_core.data.clock import UNIX_SECONDS, Clock
from atspeed_core.errors import UserError
from atspeed_core.progress import track_file

CHUNK_ROWS = 200_000
GZIP_MAGIC = b"\x1f\x8b"
UNREADABLE = (pd.errors.ParserError, OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Table:
    """A table as it is in a file.

    Attributes:
        frame: the columns by their names in the file. The index gives the place of a row: the line of a text file,
            counted from 1 with its header, or the row of a Parquet file, counted from 1.
        path: the file.
        names: our name of a column (user_id, item_id, ...) -> its name in the file.
        clock: how the column of times is written.
        checked: whether the frame is checked already and has our names and types (see `schemas.check_tables`).
    """

    frame: pd.DataFrame
    path: Path
    names: dict[str, str]
    clock: Clock = UNIX_SECONDS
    checked: bool = False

    @cached_property
    def seconds(self) -> np.ndarray:
        """The column of times as float64 unix seconds, NaN where a value is no time; see `Clock.seconds`."""
        return self.clock.seconds(self.frame[self.names["timestamp"]])


def read_delimited(
    path: Path, separator: str, names: list[str] | None = None, encoding: str = "utf-8", quoted: bool = True
) -> pd.DataFrame:
    """Read a text table as strings, empty if a field is missing; the index is the line in the file.

    Args:
        path: the file; ".gz" is decompressed.
        separator: between two fields; if it is longer than one character, the whole file is read first.
        names: column names of a file without header; the first line names the columns when None.
        encoding: of the text.
        quoted: whether '"' quotes a field.

    Raises:
        UserError: no such file, empty, not in `encoding`, or a line with too many fields.
    """
    source: Path | io.StringIO = path
    with _readable(path, encoding):
        if len(separator) > 1:  # the fast parser takes one character
            source, separator = io.StringIO(path.read_text(encoding).replace(separator, "\x1f")), "\x1f"
        with _surplus_fields_refused():
            frame = pd.read_csv(source, **_options(separator, names, encoding, quoted))
    return _numbered(frame, 2 if names is None else 1)


def read_delimited_chunks(
    path: Path, separator: str, names: list[str] | None = None, encoding: str = "utf-8", quoted: bool = True
) -> Iterator[pd.DataFrame]:
    """Read a text table of any size: as `read_delimited`, `CHUNK_ROWS` rows at a time, with progress.

    The separator is one character; gzip is recognised by the file's first bytes.
    """
    with _readable(path, encoding), open_bytes(path) as (file, raw):
        options = _options(separator, names, encoding, quoted) | {"chunksize": CHUNK_ROWS, "compression": None}
        reader = pd.read_csv(cast(Any, file), **options)
        yield from track_file(_chunks(reader, 2 if names is None else 1), f"reading {path.name}", raw)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table by the ending of its name: .parquet, .tsv or .tsv.gz (no quoting), else CSV.

    Raises:
        UserError: as `read_parquet` and `read_delimited`.
    """
    if path.suffix == ".parquet":
        return read_parquet(path)
    return read_delimited(path, "\t", quoted=False) if is_tsv(path) else read_delimited(path, ",")


def is_tsv(path: Path) -> bool:
    """Whether a file is named as one with tabs between its fields."""
    return path.name.endswith((".tsv", ".tsv.gz"))


def first_line(path: Path) -> str:
    """The first line of a plain or gzipped text file, without its end.

    Raises:
        UserError: the file is missing or damaged.
    """
    with _readable(path, "utf-8"), open_bytes(path) as (file, _):
        return file.readline(1 << 16).decode("utf-8-sig", "replace").rstrip("\r\n")


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a plain or gzipped file.

    Yields:
        The file's decompressed content, and the file as it is on the disk (whose position shows the progress).
    """
    with path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        if not zipped:
            yield raw, raw
            return
        with gzip.GzipFile(fileobj=raw) as content, io.BufferedReader(cast(Any, content), 1 << 20) as buffered:
            yield cast(IO[bytes], buffered), raw


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet table; the index is the row in the file; times become int64 unix seconds.

    Raises:
        UserError: no such file, empty, truncated or not Parquet.
    """
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; set its path in the prepare_data section") from None
    except (OSError, pa.ArrowException) as error:
        kind = "the file is empty" if path.is_file() and path.stat().st_size == 0 else "truncated or not Parquet"
        raise UserError(f"{path}: {kind} ({one_line(error)}); copy or write it again") from None
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="row")
    for column in frame.select_dtypes(["datetime", "datetimetz"]):
        frame[column] = _unix_seconds(frame[column])
    return frame


def require_columns(frame: pd.DataFrame, path: Path, columns: list[str], remedy: str = "add it or rename one") -> None:
    """Check that the columns are there.

    Raises:
        UserError: one is missing; the message names all missing and all present columns.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        present = " ".join(", ".join(map(str, frame.columns)).split())  # one line, whatever the header contains
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))} (found: {present}); {remedy}")


def one_line(error: Exception) -> str:
    """The message of an error as one line of at most 120 characters."""
    return " ".join(str(error).split())[:120]


def _unix_seconds(times: pd.Series) -> pd.Series:
    utc = times.dt.tz_convert("UTC").dt.tz_localize(None) if times.dt.tz is not None else times
    return utc.astype("datetime64[s]").astype("int64")


def _options(separator: str, names: list[str] | None, encoding: str, quoted: bool) -> dict[str, Any]:
    return {
        "sep": separator,
        "names": names,
        "header": 0 if names is None else None,
        "dtype": str,
        "keep_default_na": False,
        "skip_blank_lines": False,
        "index_col": False,
        "encoding": encoding,
        "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    }


def _chunks(reader: Any, first_line: int) -> Iterator[pd.DataFrame]:
    with reader:
        while True:
            with _surplus_fields_refused():
                frame = next(reader, None)
            if frame is None:
                return
            yield _numbered(frame, first_line)
            first_line += len(frame)


def _numbered(frame: pd.DataFrame, first_line: int) -> pd.DataFrame:
    """With the line as index, "" for a missing field, and without blank lines."""
    frame.index = pd.RangeIndex(first_line, first_line + len(frame), name="line")
    frame = frame.fillna("")
    return frame[(frame != "").any(axis=1)]  # blank lines are counted, but are no rows


@contextmanager
def _surplus_fields_refused() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # otherwise surplus fields are dropped
        yield


@contextmanager
def _readable(path: Path, encoding: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; set its path in the prepare_data section") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the file is empty; give a file with rows") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {_undecodable(path, encoding, error)}; save it as {encoding.upper()}") from None
    except pd.errors.ParserWarning:
        raise UserError(f"{path}: rows have more fields than the first line; correct the header") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable table: {one_line(error)}; correct the file") from None


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    with open_bytes(path) as (file, _):
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as fault:
                return f"line {number}: byte 0x{line[fault.start]:02x} is not {encoding.upper()} text"
    return f"not {encoding.upper()} text ({error.reason})"
