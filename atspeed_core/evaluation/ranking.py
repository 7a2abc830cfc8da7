"""Recall@K and NDCG@K of recommended lists, user by user, in item space."""

from collections.abc import Sequence

import ir_measures
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def ranking_metrics(
    lists: Sequence[Sequence[str]], targets: Sequence[Sequence[str]], k: int
) -> tuple[FloatArray, FloatArray]:
    """Recall@k and NDCG@k of every user, computed by ir-measures.

    Args:
        lists: recommended items of each user, best first, without duplicates; may be shorter than `k` or empty.
        targets: held-out items of each user, at least one; all count the same.
        k: length at which the lists are cut.

    Returns:
        (recall, ndcg), each [users] float64, 0 for a user without a hit.
    """
    recall, ndcg = ir_measures.R @ k, ir_measures.nDCG @ k
    values = {recall: np.zeros(len(lists)), ndcg: np.zeros(len(lists))}
    judged = {str(user): dict.fromkeys(wanted, 1) for user, wanted in enumerate(targets)}
    ranked = {str(user): {item: -float(place) for place, item in enumerate(row)} for user, row in enumerate(lists)}
    for found in ir_measures.iter_calc([recall, ndcg], judged, ranked):
        values[found.measure][int(found.query_id)] = found.value
    return values[recall], values[ndcg]
