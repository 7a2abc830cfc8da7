"""Any number of interactions in little memory: ids are interned, ratings float32, times int64.

A row takes 24 bytes, and the text of an id is stored once. A file is checked chunk by chunk, and only these columns
stay in memory.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from atspeed_core.data.clock import UNIX_SECONDS, Clock
from atspeed_core.data.schemas import check_tables
from atspeed_core.data.tables import Table, require_columns

TYPES = {"rating": np.float32, "timestamp": np.int64}


class Interned:
    """Ids as whole numbers, in the order of their first occurrence."""

    def __init__(self) -> None:
        """No ids yet."""
        self.numbers: dict[str, int] = {}

    def codes(self, ids: pd.Series) -> np.ndarray:
        """The numbers of `ids`, int32; new ids get new numbers."""
        local, unique = pd.factorize(ids)
        numbers = (self.numbers.setdefault(each, len(self.numbers)) for each in unique.tolist())
        return np.fromiter(numbers, np.int32, len(unique))[local]

    def column(self, codes: np.ndarray) -> pd.Categorical:
        """The ids behind `codes`."""
        return pd.Categorical.from_codes(codes, pd.Index(list(self.numbers), dtype="str"))


def compacted(
    frames: Iterable[pd.DataFrame], path: Path, names: dict[str, str], clock: Clock = UNIX_SECONDS, remedy: str = ""
) -> Table:
    """Check interactions as they are read and store them compactly.

    Args:
        frames: chunks of rows, the columns by their names in the file, the line as index.
        path: the file, for messages.
        names: our name of a column (user_id, item_id, rating, timestamp) -> its name in the file.
        clock: how the column of times is written.
        remedy: what to do when a column is missing.

    Returns:
        A checked table: user_id, item_id categories of str, rating float32, timestamp int64 (unix seconds).

    Raises:
        UserError: a column is missing or a value is wrong; the faults of the first chunk that has any are listed.
    """
    interned = {"user_id": Interned(), "item_id": Interned()}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("line", *names)}
    for frame in frames:
        require_columns(frame, path, list(names.values()), *([remedy] if remedy else []))
        if frame.empty:
            continue
        (rows,) = check_tables([Table(frame, path, names, clock)], f"up to line {frame.index[-1]}")
        parts["line"].append(rows.index.to_numpy(dtype=np.uint32))
        for name in names:
            own = rows[name]
            parts[name].append(interned[name].codes(own) if name in interned else own.to_numpy(dtype=TYPES[name]))
    return Table(_joined(parts, interned), path, names, checked=True)


def _joined(parts: dict[str, list[np.ndarray]], interned: dict[str, Interned]) -> pd.DataFrame:
    """One frame of all parts; each column's parts are released as soon as they are joined."""
    columns: dict[str, np.ndarray | pd.Categorical] = {}
    for name, own in parts.items():
        values = np.concatenate(own) if own else np.array([], dtype=TYPES.get(name, np.uint32))
        columns[name] = interned[name].column(values) if name in interned else values
        own.clear()
    index = pd.Index(columns.pop("line"), name="line")
    return pd.DataFrame(columns, index=index, copy=False)
