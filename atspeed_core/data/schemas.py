"""What interactions and items must look like, on the way in (a user's files) and on the way out (our tables)."""

from collections.abc import Callable
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from atspeed_core.data.clock import numbers
from atspeed_core.data.tables import Table
from atspeed_core.errors import UserError

MAX_LISTED = 10


def check_tables(tables: list[Table], extent: str = "in all") -> list[pd.DataFrame]:
    """Check the tables of a source and give them our column names and types.

    Args:
        tables: interactions (user_id, item_id, rating, timestamp) and items (item_id, title, text), the columns
            named in `Table.names`. A table that is checked already is returned unchanged.
        extent: how much of the source the tables are, for the message that counts the faults.

    Returns:
        Frames with user_id, item_id, title and text str, rating float64, timestamp int64 (unix seconds), if the
        table has them; the index as in the table.

    Raises:
        UserError: an id is empty, a rating is not finite, a timestamp is no time, or an item is listed twice; the
            one line lists file, row, field and value of up to `MAX_LISTED` faults and counts the others.
    """
    faults = [(table.path, fault) for table in tables if not table.checked for fault in _faults(table)]
    if faults:
        by_file = groupby(faults[:MAX_LISTED], key=itemgetter(0))
        listed = "; ".join(f"{path}: " + "; ".join(fault for _, fault in own) for path, own in by_file)
        more = f"; ... and {len(faults) - MAX_LISTED} more" if len(faults) > MAX_LISTED else ""
        raise UserError(f"{listed}{more} ({len(faults)} {extent}): correct the file")
    return [table.frame if table.checked else _typed(table) for table in tables]


def raw_schema(table: Table) -> pa.DataFrameSchema:
    """The schema of a table as read, its columns by their names in the file."""
    names = table.names
    checks = {
        "user_id": _check(_is_present, "is empty"),
        "item_id": _check(_is_present, "is empty"),
        "rating": _check(_is_finite, "is not a finite number"),
        "timestamp": _check(lambda _: _are_times(table), table.clock.fault),
    }
    columns = {file: pa.Column(checks=checks[ours], nullable=True) for ours, file in names.items() if ours in checks}
    if "user_id" not in names:
        once = _check(lambda items: ~items.astype("string").duplicated(), "is listed twice")
        columns[names["item_id"]] = pa.Column(checks=[checks["item_id"], once], nullable=True)
    return pa.DataFrameSchema(columns)


def _check(is_valid: Callable[[pd.Series], pd.Series], fault: str) -> pa.Check:
    return pa.Check(is_valid, error=fault, ignore_na=False)  # a missing value is a fault too


def _faults(table: Table) -> list[str]:
    try:
        raw_schema(table).validate(table.frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.sort_values("index", kind="stable")
        columns = (cases["index"], cases["column"], cases["failure_case"], cases["check"])
        rows, where = zip(*columns, strict=True), table.frame.index.name
        return [f"{where} {row}: {name} {_shown(value)}{fault}" for row, name, value, fault in rows]
    return []


def _shown(value: Any) -> str:
    return "" if pd.isna(value) or value == "" else f"{str(value)[:40]!r} "


def _is_present(ids: pd.Series) -> pd.Series:
    return ids.notna() & (ids.astype("string").str.strip() != "").fillna(False)


def _is_finite(ratings: pd.Series) -> pd.Series:
    return pd.Series(np.isfinite(numbers(ratings)), index=ratings.index)


def _are_times(table: Table) -> pd.Series:
    return pd.Series(table.clock.accepts(table.seconds), index=table.frame.index)


def _typed(table: Table) -> pd.DataFrame:
    frame = table.frame[list(table.names.values())].set_axis(list(table.names), axis=1)
    for column in frame.columns:
        if column == "rating":
            frame[column] = numbers(frame[column])
        elif column == "timestamp":
            frame[column] = table.seconds.astype(np.int64)
        else:
            frame[column] = frame[column].astype("str").fillna("").str.strip()
    return frame


def check_prepared(tables: dict[str, pd.DataFrame]) -> None:
    """Check the tables train, valid, test and items before they are written.

    Raises:
        pandera.errors.SchemaErrors: a defect of ours, not a user's mistake: ids are missing or repeated, a list
            is empty or names an item that is not in items, or times do not fit their items.
    """
    items = set(tables["items"]["item_id"])
    for name, table in tables.items():
        prepared_schema(name, items).validate(table, lazy=True)


def prepared_schema(name: str, items: set[str]) -> pa.DataFrameSchema:
    """The schema of a written table ("train", "valid", "test" or "items")."""
    present = _check(_is_present, "is empty")
    known = _check(lambda lists: lists.map(lambda ids: bool(ids) and items.issuperset(ids)), "unknown or no items")
    if name == "items":
        columns = {"item_id": pa.Column(checks=present, unique=True), "title": pa.Column(checks=present)}
        return pa.DataFrameSchema({**columns, "text": pa.Column()}, strict=True)
    lists, times = (["item_ids"], "timestamps") if name == "train" else (["history", "targets"], "target_timestamps")
    columns = {"user_id": pa.Column(checks=present, unique=True), times: pa.Column(nullable=True)}
    columns |= {column: pa.Column(checks=known) for column in lists}
    return pa.DataFrameSchema(columns, checks=pa.Check(lambda t: _times_fit(t[lists[-1]], t[times])), strict=True)


def _times_fit(items: pd.Series, times: pd.Series) -> bool:
    """Times are known for all or for none, one per item, in ascending order."""
    if times.isna().all():
        return True
    pairs = zip(items, times, strict=True)
    return all(len(ids) == len(ts) and all(a <= b for a, b in pairwise(ts)) for ids, ts in pairs)
