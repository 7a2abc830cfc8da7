"""Progress of long loops: a bar where a person watches, a log line now and then where nobody does."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import IO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")

LOG_EVERY_SECONDS = 15.0
MEGABYTE = 1_000_000

log = logging.getLogger(__name__)


def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of `iterable` and show how far the loop is.

    Args:
        iterable: what to loop over.
        description: what the loop does, in a few words.
        total: number of items, where `iterable` has no length.

    Yields:
        The items, unchanged.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    return _bar(iterable, description, total) if sys.stderr.isatty() else _lines(iterable, description, total)


def track_file(parts: Iterable[Item], description: str, file: IO[bytes]) -> Iterator[Item]:
    """Yield the parts of a large file and show how much of it has been read.

    Args:
        parts: what is read from the file, bit by bit.
        description: what the loop does, in a few words.
        file: the file on the disk (not its decompressed content); its position is the progress.

    Yields:
        The parts, unchanged.
    """
    size = os.fstat(file.fileno()).st_size
    return (_file_bar if sys.stderr.isatty() else _file_lines)(parts, description, file, size)


def _progress(done: ProgressColumn) -> Progress:
    columns = (BarColumn(), done, TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True))


def _bar(iterable: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    with _progress(MofNCompleteColumn()) as progress:
        yield from progress.track(iterable, total=total, description=description)


def _file_bar(parts: Iterable[Item], description: str, file: IO[bytes], size: int) -> Iterator[Item]:
    with _progress(DownloadColumn()) as progress:
        task = progress.add_task(description, total=size)
        for part in parts:
            progress.update(task, completed=file.tell())
            yield part
        progress.update(task, completed=size)


def _file_lines(parts: Iterable[Item], description: str, file: IO[bytes], size: int) -> Iterator[Item]:
    start = last = time.monotonic()
    for part in parts:
        yield part
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            last = time.monotonic()
            done, whole = file.tell() // MEGABYTE, size // MEGABYTE
            log.info("%s: %d of %d MB, %.0f s", description, done, whole, last - start)
    log.info("%s: done, %.1f MB in %.1f s", description, size / MEGABYTE, time.monotonic() - start)


def _lines(iterable: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(iterable, start=1):
        yield item
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            last = time.monotonic()
            log.info("%s: %s, %.0f s", description, f"{done} of {total}" if total else done, last - start)
    log.info("%s: done, %d in %.1f s", description, done, time.monotonic() - start)
