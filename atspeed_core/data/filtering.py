"""Filters of interactions: rating threshold, duplicate policy, k-core."""

import numpy as np
import pandas as pd

from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData


def at_least(interactions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The interactions rated `threshold` or more.

    Raises:
        UserError: the source has no ratings.
    """
    if "rating" not in interactions:
        raise UserError(f"rating_threshold is {threshold}, but the source has no ratings; set it to null")
    return interactions[interactions["rating"] >= threshold]


def in_time_order(interactions: pd.DataFrame) -> pd.DataFrame:
    """Sorted by time; interactions of the same second, or all if times are unknown, stay in source order."""
    if "timestamp" not in interactions:
        return interactions
    return interactions.sort_values("timestamp", kind="stable")


def without_duplicates(interactions: pd.DataFrame, policy: str) -> pd.DataFrame:
    """Apply the policy for repeated (user, item) pairs to time-ordered interactions.

    Args:
        interactions: in time order; the index is named "line" or "row" (for the message).
        policy: "first" keeps a pair's oldest interaction, "last" its newest, "all" every one, "error" raises.

    Raises:
        UserError: the policy is "error" and a pair is repeated.
    """
    if policy == "all":
        return interactions
    repeated = interactions.duplicated(["user_id", "item_id"], keep="last" if policy == "last" else "first")
    if policy == "error" and repeated.any():
        first = interactions[repeated].iloc[0]
        where = f"{interactions.index.name} {first.name}: user {first['user_id']!r}, item {first['item_id']!r}"
        raise UserError(f"{repeated.sum()} repeated interactions ({where}); set duplicates to first, last or all")
    return interactions[~repeated]


def k_core(interactions: pd.DataFrame, k: int) -> pd.DataFrame:
    """The largest part in which every user and every item has at least `k` interactions."""
    users = pd.factorize(interactions["user_id"])[0]
    items = pd.factorize(interactions["item_id"])[0]
    core = np.ones(len(interactions), dtype=bool)
    while True:
        enough_users = np.bincount(users[core], minlength=len(users)) >= k
        enough_items = np.bincount(items[core], minlength=len(items)) >= k
        smaller = core & enough_users[users] & enough_items[items]
        if smaller.sum() == core.sum():
            return interactions[core]
        core = smaller


def may_remain(interactions: pd.DataFrame, settings: PrepareData) -> set[str]:
    """A superset of the items that remain after threshold and k-core: those with enough interactions."""
    items = interactions["item_id"]
    if settings.rating_threshold is not None and "rating" in interactions:
        items = items[interactions["rating"] >= settings.rating_threshold]
    counts = items.value_counts()
    return set(counts.index[counts >= settings.k_core].astype("str"))


def sampled(interactions: pd.DataFrame, num_users: int, seed: int, k: int = 1) -> pd.DataFrame:
    """The interactions of `num_users` users, sampled from those with at least `k` (or of all those, if they are fewer).

    The sample does not depend on the order of the interactions.
    """
    counts = interactions["user_id"].value_counts()
    users = np.sort(counts.index[counts >= k].astype("str").to_numpy(dtype=object))
    if len(users) > num_users:
        users = np.random.default_rng(seed).choice(users, num_users, replace=False)
    return interactions[interactions["user_id"].isin(users)]
