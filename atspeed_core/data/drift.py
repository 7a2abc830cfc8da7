"""Compares a day with the days before it: volume, new items and users, popularity and ratings, each against a bound.

Pure functions over tables of interactions. A day is a day in UTC; it is compared with the latest earlier days that have
interactions at all, so that holidays without any do not count as a volume of 0.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

from atspeed_core.data.partitions import DAY_SECONDS

NUM_GROUPS = 10
UNSEEN_SHARE = 0.5  # added to the interactions of each group, so that an empty one has a logarithm


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds of a day.

    Attributes:
        window_days: number of earlier days with which the day is compared.
        volume_low: fewest interactions, as a share of the median of the earlier days.
        volume_high: most interactions, as a multiple of that median.
        max_new_items: largest share of interactions with items never seen before.
        max_new_users: largest share of interactions by users never seen before.
        max_popularity_shift: largest population stability index of item popularity against the earlier days.
        max_rating_shift: largest Kolmogorov-Smirnov distance of the ratings to those of the earlier days.
        min_rows: with fewer interactions than these, shares and shifts are logged but not judged.
    """

    window_days: int
    volume_low: float
    volume_high: float
    max_new_items: float
    max_new_users: float
    max_popularity_shift: float
    max_rating_shift: float
    min_rows: int


@dataclass(frozen=True)
class Check:
    """A figure of a day and whether it is within its bound.

    Attributes:
        name: of the figure; unique per day.
        setting: the field of `Bounds` that contains the bound.
        value: of the day; None if there is nothing to compare.
        bound: the smallest (volume_low) or largest accepted value.
        ok: whether the value is within the bound.
        judged: whether there are enough interactions for the value to count.
    """

    name: str
    setting: str
    value: float | None
    bound: float
    ok: bool
    judged: bool


def check_day(earlier: pd.DataFrame, day: pd.DataFrame, bounds: Bounds) -> list[Check]:
    """Compare the interactions of one day with all that came before it.

    Args:
        earlier: user_id, item_id, timestamp (unix seconds) and, optionally, rating; at least one row.
        day: the same columns; may be empty.
        bounds: of the day.

    Returns:
        The checks volume_low and volume_high (of one value), new_items, new_users, popularity_shift and rating_shift
        (if there are ratings).
    """
    window, volumes = _window(earlier, bounds.window_days)
    volume = len(day) / float(np.median(volumes))
    enough = len(day) >= bounds.min_rows
    figures = {
        "new_items": new_share(earlier["item_id"], day["item_id"]),
        "new_users": new_share(earlier["user_id"], day["user_id"]),
        "popularity_shift": popularity_shift(earlier["item_id"], window["item_id"], day["item_id"]),
    }
    if "rating" in earlier and "rating" in day:
        figures["rating_shift"] = rating_shift(window["rating"], day["rating"])
    checks = [_at_most(name, value, getattr(bounds, f"max_{name}"), enough) for name, value in figures.items()]
    low = Check("volume_low", "volume_low", volume, bounds.volume_low, volume >= bounds.volume_low, judged=True)
    high = Check("volume_high", "volume_high", volume, bounds.volume_high, volume <= bounds.volume_high, judged=True)
    return [low, high, *checks]


def new_share(earlier: pd.Series, day: pd.Series) -> float | None:
    """The share of `day` (ids, one per interaction) that does not occur in `earlier`; None for an empty day."""
    return None if day.empty else float(1.0 - day.isin(earlier.unique()).mean())


def popularity_shift(earlier: pd.Series, window: pd.Series, day: pd.Series) -> float | None:
    """How much the day's interactions move between popular and rare items, in comparison with `window`.

    Known items are divided by their number of interactions in `earlier` into ten groups with a tenth of these each; the
    figure is the population stability index of the day's shares of the groups. New items are counted elsewhere.

    Args:
        earlier: item ids of all days before, one per interaction.
        window: those of the latest days before.
        day: those of the day.

    Returns:
        0 for the same shares; without any change about 9 / len(day) by chance. None without a known item.
    """
    groups = popularity_groups(earlier)
    known = day[day.isin(groups.index)]
    if known.empty:
        return None
    expected, observed = (np.bincount(groups[ids].to_numpy(), minlength=NUM_GROUPS) for ids in (window, known))
    return stability_index(expected, observed)


def popularity_groups(items: pd.Series) -> pd.Series:
    """Item id -> group, 0 (the most popular items) to `NUM_GROUPS` - 1, by its number of rows in `items`."""
    counts = items.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    middle = (counts.cumsum() - counts / 2) / counts.sum()
    return (middle * NUM_GROUPS).astype("int64")


def stability_index(expected: np.ndarray, observed: np.ndarray) -> float:
    """The population stability index of two histograms: sum of (q - p) ln(q / p) over the shares p and q.

    Args:
        expected: counts by group, [groups].
        observed: counts by group, [groups].
    """
    p, q = ((counts + UNSEEN_SHARE) / (counts + UNSEEN_SHARE).sum() for counts in (expected, observed))
    return float(((q - p) * np.log(q / p)).sum())


def rating_shift(window: pd.Series, day: pd.Series) -> float | None:
    """The Kolmogorov-Smirnov distance of two samples of ratings: 0 (equal) to 1; None if one is empty."""
    if window.empty or day.empty:
        return None
    return float(ks_2samp(window.to_numpy(), day.to_numpy(), method="asymp").statistic)


def _window(earlier: pd.DataFrame, num_days: int) -> tuple[pd.DataFrame, np.ndarray]:
    """The interactions of the latest `num_days` days that have any, and their number per day."""
    days = earlier["timestamp"].to_numpy() // DAY_SECONDS
    names, volumes = np.unique(days, return_counts=True)
    return earlier[days >= names[-num_days:][0]], volumes[-num_days:]


def _at_most(name: str, value: float | None, bound: float, enough: bool) -> Check:
    ok = value is None or value <= bound
    return Check(name, f"max_{name}", value, bound, ok, judged=enough and value is not None)
