"""Numbers and times as files write them."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa

LAST_SECOND = 253_402_300_799  # of the year 9999: a larger "timestamp" is in milliseconds or finer
FIRST_WEB_SECOND, LAST_WEB_SECOND = 631_152_000, 4_102_444_799  # 1990 to 2099
UNITS = {"s": "in unix seconds", "ms": "in unix milliseconds"}


@dataclass(frozen=True)
class Clock:
    """How the times of a column are written, and which of them are plausible.

    Attributes:
        notation: "s" or "ms" (since 1970, UTC), or the format of a text in strptime's notation.
        first: the earliest plausible second.
        last: the latest plausible second.
    """

    notation: str = "s"
    first: int = 0
    last: int = LAST_SECOND

    def seconds(self, times: pd.Series) -> np.ndarray:
        """Unix seconds as float64, NaN where a value is no time; milliseconds are dropped, other fractions stay."""
        if self.notation == "s":
            return numbers(times)
        if self.notation == "ms":
            return np.floor(numbers(times) / 1000)
        parsed = pd.to_datetime(times, format=self.notation, utc=True, errors="coerce").dt.tz_localize(None)
        return np.where(parsed.isna(), np.nan, parsed.astype("datetime64[s]").astype("int64")).astype(np.float64)

    def accepts(self, seconds: np.ndarray) -> np.ndarray:
        """Which of the times are whole seconds between the first and the last."""
        with np.errstate(invalid="ignore"):
            return np.asarray((seconds >= self.first) & (seconds <= self.last) & (seconds % 1 == 0))

    @property
    def fault(self) -> str:
        """The message about a value that is no time."""
        if self == UNIX_SECONDS:
            return "is not a whole number of unix seconds"
        first, last = (datetime.fromtimestamp(end, UTC).year for end in (self.first, self.last))
        return f"is not a time from {first} to {last} {UNITS.get(self.notation, f'written as {self.notation}')}"


UNIX_SECONDS = Clock()


def web_clock(notation: str) -> Clock:
    """The clock of reviews on the web: a time before 1990 or after 2099 is a fault."""
    return Clock(notation, FIRST_WEB_SECOND, LAST_WEB_SECOND)


def numbers(column: pd.Series) -> np.ndarray:
    """The column as float64, NaN where a value is no number."""
    if isinstance(column.dtype, pd.StringDtype):
        try:  # ten times as fast, if all values are numbers
            return np.asarray(pa.array(column).cast(pa.float64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid:
            pass
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
