"""Top-K lists of all test users, batch by batch, and how they compare with the reference lists."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from atspeed_core.errors import UserError
from atspeed_core.evaluation.inputs import read_stage_parquet
from atspeed_core.files import replacing
from atspeed_core.recommender import Recommendation

COLUMNS = ("items", "scores", "accepted_steps", "target_calls", "target_nodes")
REFERENCE_COLUMNS = ["user_id", "k", "items", "scores"]


def collect_lists(
    recommend: Callable[[list[list[str]], int], Recommendation], batches: Iterable[tuple[int, list[list[str]]]]
) -> pd.DataFrame:
    """Run `recommend` over all batches.

    Args:
        recommend: (histories, number of the first user) -> recommendation.
        batches: (number of the first user, histories), see `in_batches`.

    Returns:
        One row per user: items list<str>, scores list<float>, accepted_steps, target_calls and target_nodes int.
    """
    columns: dict[str, list[object]] = {name: [] for name in COLUMNS}
    for first, histories in batches:
        answer = recommend(histories, first)
        for name, values in columns.items():
            values += getattr(answer, name)
    return pd.DataFrame(columns)


def in_batches(histories: Sequence[list[str]], size: int) -> list[tuple[int, list[list[str]]]]:
    """(number of the first user, histories) for each batch of at most `size` users, in order."""
    return [(first, list(histories[first : first + size])) for first in range(0, len(histories), size)]


def same_lists(ours: Iterable[Sequence[str]], reference: Iterable[Sequence[str]]) -> list[bool]:
    """For each user, whether both lists hold the same items in the same order."""
    return [list(a) == list(b) for a, b in zip(ours, reference, strict=True)]


def same_sets(ours: Iterable[Sequence[str]], reference: Iterable[Sequence[str]]) -> list[bool]:
    """For each user, whether both lists hold the same items in any order."""
    return [set(a) == set(b) for a, b in zip(ours, reference, strict=True)]


def largest_swap_gap(ours: pd.DataFrame, reference: pd.DataFrame) -> float:
    """Largest difference of score between an item of the reference and the item that stands in its place.

    The reference's score of both is taken where it lists both, else our score of ours. 0 where all lists are
    identical: a tiny value says that only ties up to rounding were broken differently.

    Args:
        ours: columns items and scores, one row per user.
        reference: the same users in the same order.
    """
    pairs = zip(ours["items"], ours["scores"], reference["items"], reference["scores"], strict=True)
    return max((_swap_gap(*pair) for pair in pairs), default=0.0)


def _swap_gap(
    items: Sequence[str], scores: Sequence[float], wanted: Sequence[str], wanted_scores: Sequence[float]
) -> float:
    reference_score = dict(zip(wanted, wanted_scores, strict=True))
    places = zip(items, scores, wanted, wanted_scores, strict=False)
    return max((abs(reference_score.get(i, s) - t) for i, s, w, t in places if i != w), default=0.0)


def write_reference(path: str | Path, users: Sequence[str], lists: Mapping[int, pd.DataFrame]) -> None:
    """Write the reference lists of every K: user_id str, k int64, items list<str>, scores list<float64>."""
    frames = [frame[["items", "scores"]].assign(user_id=list(users), k=k) for k, frame in lists.items()]
    with replacing(path) as temporary:
        pd.concat(frames, ignore_index=True)[REFERENCE_COLUMNS].to_parquet(temporary, index=False)


def read_reference(path: str | Path, users: Sequence[str], ks: Sequence[int]) -> dict[int, pd.DataFrame]:
    """Read the reference lists of every K in `ks`, in the order of `users`.

    Raises:
        UserError: the file is missing, damaged, of other users or without one of the K.
    """
    frame = read_stage_parquet(path, "evaluate_target")
    by_k = {k: frame[frame["k"] == k].set_index("user_id") for k in dict.fromkeys(frame["k"].tolist())}
    for k in ks:
        if k not in by_k:
            raise UserError(f"{path}: no lists of K = {k} (has {sorted(by_k)}); run the evaluate_target stage again")
        if set(by_k[k].index) != set(users):
            raise UserError(f"{path}: its users are not those of the test part; run the evaluate_target stage again")
    return {k: by_k[k].loc[list(users)].reset_index() for k in ks}


def lists_digest(lists: Mapping[int, pd.DataFrame]) -> str:
    """SHA-256 of the items of all lists: tells whether two results were measured against the same reference."""
    content = [[k, *map(list, frame["items"])] for k, frame in sorted(lists.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def choose_users(num_users: int, wanted: int, seed: int) -> list[int]:
    """Numbers of `wanted` users sampled without replacement (all of them if there are fewer), ascending."""
    chosen = np.random.default_rng(seed).choice(num_users, size=min(wanted, num_users), replace=False)
    return sorted(int(number) for number in chosen)


def check_ks(ks: Sequence[int], num_identifiers: int, num_users: int) -> None:
    """Refuse what cannot be measured, before any work is done.

    Raises:
        UserError: a K above the number of identifiers in the catalog, or fewer than two test users.
    """
    if max(ks) > num_identifiers:
        remedy = f"the catalog has {num_identifiers} identifiers, lower the largest K"
        raise UserError(f"evaluate.ks: K = {max(ks)} is larger than the catalog: {remedy}")
    if num_users < 2:
        remedy = "intervals need two at least; let prepare_data keep more users"
        raise UserError(f"the test part has {num_users} user(s); {remedy}")
