"""How exact the lists are, as passes over a tree round differently from passes step by step."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from atspeed_core.evaluation.lists import collect_lists, in_batches, largest_swap_gap, same_lists
from atspeed_core.recommender import Recommender

Json = dict[str, Any]
Histories = Sequence[Sequence[str]]


def compare_formats(load: Callable[[torch.dtype], Recommender], histories: Histories, k: int) -> Json:
    """Strict lists in bfloat16 and float32 against beam search in the same format, and against float32's.

    Args:
        load: loads the recommender in a number format, without a plan, so that it speculates with wide trees.
        histories: one request each, decoded alone.
        k: list length.
    """
    full, half = load(torch.float32), load(torch.bfloat16)
    exact = lists(full, histories, k, "none")
    strict = lists(half, histories, k, "strict")
    return {
        "requests": len(histories),
        "k": k,
        "float32_strict_vs_float32_none": difference(lists(full, histories, k, "strict"), exact),
        "bfloat16_strict_vs_bfloat16_none": difference(strict, lists(half, histories, k, "none")),
        "bfloat16_strict_vs_float32_none": difference(strict, exact),
    }


def lists(recommender: Recommender, histories: Histories, k: int, verification: str) -> pd.DataFrame:
    """The lists of all requests, each decoded alone."""
    batches = in_batches([list(history) for history in histories], 1)
    return collect_lists(lambda batch, _: recommender.recommend(batch, k, verification), batches)


def difference(ours: pd.DataFrame, reference: pd.DataFrame) -> Json:
    """Share of identical lists, and the largest score gap of a swapped pair."""
    return {
        "identical_lists": float(np.mean(same_lists(ours["items"], reference["items"]))),
        "largest_swap_gap": largest_swap_gap(ours, reference),
    }
