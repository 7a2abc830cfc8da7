"""Reading text and Parquet tables: every way in which a file can be unreadable is one clear line."""

import csv
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from atspeed_core.errors import UserError


@dataclass(frozen=True)
class Table:
    """A table as found in a file, not yet checked.

    Attributes:
        frame: the columns by their names in the file. The index says where a row was found: the line of a text
            file, counted from 1 with its header, or the row of a Parquet file, counted from 1.
        path: the file.
        names: our name of a column (user_id, item_id, ...) -> its name in the file.
    """

    frame: pd.DataFrame
    path: Path
    names: dict[str, str]


def read_delimited(
    path: Path, separator: str, names: list[str] | None = None, encoding: str = "utf-8", quoted: bool = True
) -> pd.DataFrame:
    """Read a text table as strings, empty where a field is missing; the index is the line in the file.

    Args:
        path: the file; ".gz" is decompressed.
        separator: between two fields; when longer than one character the file is read whole first.
        names: column names of a file without header; the first line names the columns when None.
        encoding: of the text.
        quoted: whether '"' quotes a field.

    Raises:
        UserError: no such file, empty, not in `encoding`, or a line with too many fields.
    """
    source: Path | io.StringIO = path
    try:
        if len(separator) > 1:  # the fast parser takes one character
            source, separator = io.StringIO(path.read_text(encoding).replace(separator, "\x1f")), "\x1f"
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # else surplus fields are cut off
            frame = _parsed(source, separator, names, encoding, quoted)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; set its path in the prepare_data section") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the file is empty; give a file with rows") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {_undecodable(path, encoding, error)}; save it as {encoding.upper()}") from None
    except pd.errors.ParserWarning:
        raise UserError(f"{path}: rows have more fields than the first line; correct the header") from None
    except (pd.errors.ParserError, OSError, EOFError) as error:
        raise UserError(f"{path}: not a readable table: {_one_line(error)}; correct the file") from None
    first_line = 2 if names is None else 1
    frame.index = pd.RangeIndex(first_line, first_line + len(frame), name="line")
    frame = frame.fillna("")
    return frame[(frame != "").any(axis=1)]  # blank lines are counted, but are no rows


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
        raise UserError(f"{path}: {kind} ({_one_line(error)}); copy or write it again") from None
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="row")
    for column in frame.select_dtypes(["datetime", "datetimetz"]):
        frame[column] = _unix_seconds(frame[column])
    return frame


def require_columns(frame: pd.DataFrame, path: Path, columns: list[str], remedy: str = "add it or rename one") -> None:
    """Check that the columns are there.

    Raises:
        UserError: one is missing; all missing and all found columns are named.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        found = " ".join(", ".join(map(str, frame.columns)).split())  # one line, whatever the header holds
        raise UserError(f"{path}: no column {', '.join(map(repr, missing))} (found: {found}); {remedy}")


def _unix_seconds(times: pd.Series) -> pd.Series:
    utc = times.dt.tz_convert("UTC").dt.tz_localize(None) if times.dt.tz is not None else times
    return utc.astype("datetime64[s]").astype("int64")


def _parsed(
    source: Path | io.StringIO, separator: str, names: list[str] | None, encoding: str, quoted: bool
) -> pd.DataFrame:
    return pd.read_csv(
        source,
        sep=separator,
        names=names,
        header=0 if names is None else None,
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,
        index_col=False,
        encoding=encoding,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    if path.suffix != ".gz":
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as fault:
                return f"line {number}: byte 0x{line[fault.start]:02x} is not {encoding.upper()} text"
    return f"not {encoding.upper()} text ({error.reason})"
