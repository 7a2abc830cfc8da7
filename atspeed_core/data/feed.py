"""The feed: a folder to which another system adds each day's interactions, and what of it is new.

    2026-01-02.parquet (or .csv, .csv.gz)       that day's interactions: user_id, item_id, timestamp, maybe rating
    history-before-2026-01-01.parquet           optional: everything before that day, the same columns
    items.parquet (or .csv, .csv.gz)            optional: item_id, maybe title and text

Nothing in it is trusted: every file is checked before it is taken over, and messages name file and line of a wrong row.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd

from atspeed_core.data.partitions import (
    COLUMNS,
    ITEMS,
    comes_from,
    day_in,
    day_start,
    days_of,
    has_ratings,
    history_end_in,
    history_name,
    next_day,
    partitions,
    write_items,
    write_partition,
)
from atspeed_core.data.schemas import check_tables
from atspeed_core.data.tables import Table, read_table, require_columns
from atspeed_core.errors import UserError
from atspeed_core.progress import track

ENDINGS = (".csv.gz", ".csv", ".parquet")
MAX_LISTED = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Feed:
    """The files of a feed.

    Attributes:
        folder: where they are.
        days: day (YYYY-MM-DD) -> file, ascending.
        history: file of everything before `history_end`.
        history_end: the first day that is not in `history`.
        items: file of titles and texts.
    """

    folder: Path
    days: dict[str, Path]
    history: Path | None = None
    history_end: str | None = None
    items: Path | None = None


@dataclass(frozen=True)
class Partition:
    """New interactions: the name of their partition (a stem), the interactions, and the file they come from."""

    name: str
    interactions: pd.DataFrame
    source: Path


def find_feed(folder: Path) -> Feed:
    """Read the names in `folder`, but no file.

    Raises:
        UserError: there is no such folder, a day occurs twice or is before the end of the history, or a name
            is no date.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; put the days' files there, or set nightly.feed in the preset")
    files = _by_stem(folder)
    days = {stem: path for stem, path in sorted(files.items()) if day_in(stem)}
    histories = {end: path for stem, path in files.items() if (end := history_end_in(stem))}
    _require_dates({**days, **histories})
    if len(histories) > 1:
        raise UserError(f"{folder}: two histories ({_names(histories.values())}); leave one")
    end, history = next(iter(histories.items()), (None, None))
    inside = [path for day, path in days.items() if end is not None and day < end]
    if history is not None and inside:
        raise UserError(f"{folder}: {history.name} already contains {_names(inside)}; remove one or the other")
    return Feed(folder, days, history, end, files.get("items"))


def read_day(path: Path, day: str) -> pd.DataFrame:
    """Read and check a day's interactions, in the file's order.

    Returns:
        user_id, item_id str, rating float64 if the file has it, timestamp int64; the index is the line or row.

    Raises:
        UserError: the file is unreadable, a column is missing, or rows are wrong or belong to another day.
    """
    start, end = day_start(day), day_start(next_day(day))
    frame = _read_interactions(path)
    _require_times(frame, path, (frame["timestamp"] >= start) & (frame["timestamp"] < end), f"is not on {day} (UTC)")
    return frame


def read_history(path: Path, before: str) -> pd.DataFrame:
    """Read and check the interactions before the day `before`; otherwise as `read_day`."""
    frame = _read_interactions(path)
    _require_times(frame, path, frame["timestamp"] < day_start(before), f"is not before {before} (UTC)")
    return frame


def read_items(path: Path) -> pd.DataFrame:
    """Read and check item_id, title and text (by default empty, and the title).

    Raises:
        UserError: the file is unreadable, an id is empty or listed twice.
    """
    frame = read_table(path)
    require_columns(frame, path, ["item_id"])
    for column, default in (("title", ""), ("text", frame.get("title", ""))):
        frame[column] = frame.get(column, default)
    return check_tables([Table(frame, path, {name: name for name in ("item_id", "title", "text")})])[0]


def append(folder: Path, feed: Feed, *, after: str | None, until: str) -> dict[str, int]:
    """Add the feed's days after `after` up to `until`, and its titles, to the partitions in `folder`.

    Args:
        folder: the partitions; after an error only some of the days are in it (see `partitions.changing`).
        feed: source of the days.
        after: the day after which days are taken, YYYY-MM-DD; None: everything up to `until` is taken.
        until: the last day that is taken.

    Returns:
        Name of each new partition -> number of its interactions.

    Raises:
        UserError: a file of the feed is wrong, or only some of the days have ratings.
    """
    latest_first = (has_ratings(path) for path in reversed(partitions(folder)))
    rated = next((known for known in latest_first if known is not None), None)
    added = {}
    for new in _new_partitions(feed, after, until):
        rated = _require_ratings_alike(new, rated)
        write_partition(new.interactions, folder / f"{new.name}.parquet", new.source)
        added[new.name] = len(new.interactions)
    if feed.items is not None:
        earlier = [pd.read_parquet(folder / ITEMS)] if (folder / ITEMS).is_file() else []
        write_items(merged_items([*earlier, read_items(feed.items)]), folder)
    return added


def merged_items(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """One row per item, by item id; a later table's title and text take precedence unless they are empty."""
    items = pd.concat(tables).replace("", None)
    return items.groupby("item_id", sort=True)[["title", "text"]].last().fillna("").astype("str").reset_index()


def late_days(store: Path, feed: Feed, *, until: str, recent: str) -> list[str]:
    """The days of the feed up to `until` that `store` contains with other content, or not at all.

    Args:
        store: the folder of partitions.
        feed: that with which it is compared.
        until: the last day that is compared.
        recent: from this day on, files of unchanged size are compared by content as well.
    """
    closed = [(day, path) for day, path in feed.days.items() if day <= until]
    return [day for day, path in closed if _is_late(store / f"{day}.parquet", path, day, day >= recent)]


def _by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), None)
        stem = path.name.removesuffix(ending or "")
        if path.name.startswith(".") or path.is_dir():  # incomplete files are often hidden
            continue
        if ending is None or not (day_in(stem) or history_end_in(stem) or stem == "items"):
            log.warning("%s: not read; a day's file is named YYYY-MM-DD%s", path, " or ".join(ENDINGS))
        elif stem in files:
            raise UserError(f"{folder}: {files[stem].name} and {path.name} are the same twice; remove one")
        else:
            files[stem] = path
    return files


def _require_dates(files: dict[str, Path]) -> None:
    for day, path in files.items():
        try:
            date.fromisoformat(day)
        except ValueError as error:
            raise UserError(f"{path}: {day} is no date ({error}); rename the file") from None


def _read_interactions(path: Path) -> pd.DataFrame:
    frame = read_table(path)
    require_columns(frame, path, ["user_id", "item_id", "timestamp"], "name the columns so")
    names = ["user_id", "item_id", *(["rating"] if "rating" in frame else []), "timestamp"]
    return check_tables([Table(frame, path, {name: name for name in names})])[0]


def _require_times(frame: pd.DataFrame, path: Path, valid: pd.Series, fault: str) -> None:
    wrong = frame["timestamp"][~valid]
    if wrong.empty:
        return
    shown = wrong.head(MAX_LISTED)
    times = pd.to_datetime(shown, unit="s").dt.strftime("%Y-%m-%d %H:%M:%S")
    rows = (f"{frame.index.name} {row}: timestamp {shown[row]} ({times[row]}) {fault}" for row in shown.index)
    raise UserError(f"{path}: {'; '.join(rows)} ({len(wrong)} in all): put each into the file of its day")


def _new_partitions(feed: Feed, after: str | None, until: str) -> Iterator[Partition]:
    history, end = feed.history, feed.history_end
    if history is not None and end is not None and (after is None or next_day(after) < end):
        yield from _from_history(history, end, after, until)
    days = {day: path for day, path in feed.days.items() if (after is None or day > after) and day <= until}
    for day, path in track(days.items(), "reading the feed", total=len(days)):
        yield Partition(day, read_day(path, day), path)


def _from_history(path: Path, before: str, after: str | None, until: str) -> Iterator[Partition]:
    """The content of the history: at first all of it as one partition, afterwards by day."""
    end = min(before, next_day(until))
    frame = read_history(path, before)
    frame = frame[frame["timestamp"] < day_start(end)]
    if after is None and not frame.empty:
        yield Partition(history_name(end), frame, path)
    elif after is not None:
        frame = frame[frame["timestamp"] >= day_start(next_day(after))]
        for day, own in frame.groupby(days_of(frame["timestamp"])):
            yield Partition(str(day), own, path)


def _require_ratings_alike(new: Partition, rated: bool | None) -> bool | None:
    """Whether the days have ratings, as far as known including `new`; `rated`: the same for the days before."""
    if new.interactions.empty:
        return rated
    has = "rating" in new.interactions
    if rated is not None and rated != has:
        fault = "has ratings, but the days before have none" if has else "has no ratings, but the days before have"
        raise UserError(f"{new.source}: {fault}; let all days have the column rating, or none")
    return has


def _is_late(partition: Path, path: Path, day: str, by_content: bool) -> bool:
    if not partition.is_file():
        return True
    if comes_from(partition, path, by_content):
        return False
    try:  # another file may contain the same rows
        rows = read_day(path, day).reindex(columns=COLUMNS).astype({"rating": "float64"})
        return not rows.reset_index(drop=True).equals(pd.read_parquet(partition))
    except UserError:
        return True


def _names(paths: Iterable[Path]) -> str:
    names = [path.name for path in paths]
    return ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")
