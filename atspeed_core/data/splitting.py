"""Splits interactions into train, valid and test, and turns the parts into sequences."""

import numpy as np
import pandas as pd

from atspeed_core.errors import UserError

PARTS = ("train", "valid", "test")
MIN_TRAIN_ITEMS = 2  # a user with fewer has no next item to learn from and is dropped, as in the published split


def boundaries(timestamps: pd.Series) -> tuple[int, int]:
    """The first second of valid and of test: 80 % and 90 % of all interactions are earlier, apart from ties."""
    ordered = np.sort(timestamps.to_numpy())
    return int(ordered[int(0.8 * len(ordered))]), int(ordered[int(0.9 * len(ordered))])


def parts_at(timestamps: pd.Series, cuts: tuple[int, int]) -> np.ndarray:
    """The part ("train", "valid" or "test") of each time, with `cuts` the first second of valid and of test."""
    return np.array(PARTS)[np.searchsorted(cuts, timestamps, side="right")]


def chronological(interactions: pd.DataFrame) -> pd.DataFrame:
    """Split 8:1:1 at two moments that are the same for all users (AtSpeed, arXiv 2410.05165, section 4.1).

    An interaction at the very second of a boundary belongs to the later part. Users with fewer than two training
    items are dropped; items first seen after training stay.

    Returns:
        `interactions` with a column part ("train", "valid" or "test").

    Raises:
        UserError: the source has no timestamps.
    """
    if "timestamp" not in interactions:
        raise UserError("split is chronological, but the source has no timestamps; set split to leave_one_out")
    times = interactions["timestamp"]
    parted = interactions.assign(part=parts_at(times, boundaries(times)))
    num_train = (parted["part"] == "train").groupby(parted["user_id"]).transform("sum")
    return parted[num_train >= MIN_TRAIN_ITEMS]


def leave_one_out(interactions: pd.DataFrame) -> pd.DataFrame:
    """Each user's last interaction is for test, the one before for valid; users with fewer than 3 only train.

    Args:
        interactions: in time order.

    Returns:
        `interactions` with a column part ("train", "valid" or "test").
    """
    by_user = interactions.groupby("user_id")
    from_end = by_user.cumcount(ascending=False).to_numpy()
    size = by_user["item_id"].transform("size").to_numpy()
    part = np.where(from_end == 0, "test", np.where(from_end == 1, "valid", "train"))
    return interactions.assign(part=np.where(size < 3, "train", part))


def train_table(parted: pd.DataFrame) -> pd.DataFrame:
    """user_id, item_ids, timestamps (None where unknown): one row per user with training items, by user id."""
    sequences = _sequences(parted[parted["part"] == "train"])
    return sequences.rename(columns={"items": "item_ids", "times": "timestamps"})


def example_table(parted: pd.DataFrame, part: str, max_history: int) -> pd.DataFrame:
    """user_id, history, targets, target_timestamps (None where unknown) of the users of "valid" or "test".

    The history is everything before the part (the training items, for test followed by the validation items): the most
    recent `max_history` of them, oldest first. Users without history are left out.
    """
    before = _sequences(parted[parted["part"].isin(PARTS[: PARTS.index(part)])]).set_index("user_id")
    examples = _sequences(parted[parted["part"] == part])
    examples = examples[examples["user_id"].isin(before.index)].reset_index(drop=True)
    history = before["items"].reindex(examples["user_id"]).map(lambda items: items[-max_history:])
    columns = {"user_id": examples["user_id"], "history": history.to_numpy(), "targets": examples["items"]}
    return pd.DataFrame({**columns, "target_timestamps": examples["times"]})


def _sequences(interactions: pd.DataFrame) -> pd.DataFrame:
    """user_id, items, times: one row per user, by user id; the order within a user stays."""
    codes, users = pd.factorize(interactions["user_id"], sort=True)
    ordered = interactions.iloc[np.argsort(codes, kind="stable")]
    ends = np.cumsum(np.bincount(codes, minlength=len(users))).tolist()
    items = _cut(ordered["item_id"], ends)
    times = _cut(ordered["timestamp"], ends) if "timestamp" in ordered else None
    return pd.DataFrame({"user_id": users, "items": items, "times": times})


def _cut(column: pd.Series, ends: list[int]) -> list[list[str]] | list[list[int]]:
    values = column.tolist()
    return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
