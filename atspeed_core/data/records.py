"""Files of any size with one record per line: JSON or Python's notation, plain or gzipped.

Of each line only the required fields stay in memory. Old exports contain Python dicts ({'asin': '...'}), not JSON; they
are read by `ast.literal_eval`, which builds literals and executes nothing.
"""

import ast
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pandas as pd
from pydantic_core import from_json

from atspeed_core.data.tables import one_line, open_bytes
from atspeed_core.errors import UserError
from atspeed_core.progress import track_file

Record = dict[str, Any]
Parser = Callable[[bytes], Any]

BATCH_RECORDS = 20_000
MAX_LINE_BYTES = 1 << 26
BROKEN_LINE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
REMEDY = "download the file again"


def read_records(path: Path, fields: list[str]) -> Iterator[pd.DataFrame]:
    """Read the named fields of all records in batches, with progress.

    Args:
        path: the file; gzip is recognised by its first bytes.
        fields: those to read.

    Yields:
        One column per field (None if a record lacks it), one row per record; the index is the line in the file.

    Raises:
        UserError: the file is missing, truncated or damaged, or a line is no record; the message names the line.
    """
    with _opened(path) as (file, raw):
        rows = ((number, *map(record.get, fields)) for number, record in _records(path, file))
        batches = (_frame(batch, fields) for batch in iter(lambda: list(islice(rows, BATCH_RECORDS)), []))
        yield from track_file(batches, f"reading {path.name}", raw)


def first_record(path: Path) -> Record:
    """The first record of a file, which shows its fields.

    Raises:
        UserError: the file is missing or empty, or its first line is no record.
    """
    with _opened(path) as (file, _):
        for _, record in _records(path, file):
            return record
    raise UserError(f"{path}: the file is empty; {REMEDY}")


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file; set prepare_data.path")
    return open_bytes(path)


def _frame(batch: list[tuple[Any, ...]], fields: list[str]) -> pd.DataFrame:
    lines = pd.Index([row[0] for row in batch], name="line")
    return pd.DataFrame([row[1:] for row in batch], index=lines, columns=fields, dtype=object)


def _records(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Record]]:
    """Line number and record of each line that is not blank."""
    parse: Parser | None = None
    for number, line in _lines(path, file):
        if not line.strip():
            continue
        parse = parse or _notation(line)
        try:
            record = parse(line)
        except BROKEN_LINE as error:
            what = f"not a record ({one_line(error)})"
            raise UserError(f"{path}: line {number}: {what}; {REMEDY}") from None
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise UserError(f"{path}: line {number}: a {kind}; a file with one {{...}} per line is expected")
        yield number, record


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), start=1):
            if len(line) == MAX_LINE_BYTES:
                raise UserError(f"{path}: line {number} is longer than 64 MiB; one record per line is expected")
            yield number, line
    except (EOFError, OSError, zlib.error) as error:
        where = f"line {number + 1}: breaks off or is damaged here ({one_line(error)})"
        raise UserError(f"{path}: {where}; {REMEDY}") from None


def _notation(line: bytes) -> Parser:
    """How the records of a file are written, as one line shows."""
    try:
        json.loads(line)
    except BROKEN_LINE:
        return _python_literal if line.lstrip().startswith((b"{'", b"{u'")) else _json
    return _json


def _json(line: bytes) -> Any:
    try:
        return from_json(line)  # four times as fast
    except ValueError:
        return json.loads(line)  # accepts more, such as half of a surrogate pair, and its message says what is wrong


def _python_literal(line: bytes) -> Any:
    return ast.literal_eval(line.decode("utf-8").strip())
