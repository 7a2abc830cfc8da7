"""The figures of a recommender with fixed lists."""

import math
from typing import Any

import pandas as pd
import pytest

from atspeed_core.data.sequences import Example
from atspeed_core.evaluation.lists import collect_lists, in_batches
from atspeed_core.evaluation.measure import list_figures, per_user_figures

OPTIONS = {"samples": 200, "seed": 0}


def lists_of(recommender: Any, examples: list[Example], verification: str) -> pd.DataFrame:
    batches = in_batches([example.history for example in examples], 3)
    return collect_lists(lambda batch, first: recommender.recommend(batch, 2, verification=verification), batches)


def figures_of(recommender: Any, examples: list[Example], verification: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    lists, reference = (lists_of(recommender, examples, name) for name in (verification, "none"))
    per_user = per_user_figures(examples, lists, reference, 2, verification)
    return per_user, list_figures(per_user, lists, reference, **OPTIONS)


def test_strict_lists_equal_the_reference(recommender: Any, examples: list[Example]) -> None:
    per_user, figures = figures_of(recommender, examples, "strict")
    assert per_user["identical"].all()
    assert figures["identical_lists"] == figures["identical_sets"] == 1.0
    assert figures["largest_swap_gap"] == 0.0
    assert figures["accepted_steps"] == 2.0
    assert figures["target_calls"] == 2.0


def test_a_changed_list_lowers_the_share_of_identical_lists(recommender: Any, examples: list[Example]) -> None:
    per_user, figures = figures_of(recommender, examples, "relaxed")
    assert per_user.set_index("user_id")["identical"].to_dict() == {"u0": True, "u1": False, "u2": True, "u3": True}
    assert figures["identical_lists"] == 0.75
    assert figures["identical_sets"] == 1.0
    assert figures["largest_swap_gap"] == pytest.approx(0.5)


def test_all_users_count_in_the_means(recommender: Any, examples: list[Example]) -> None:
    _, figures = figures_of(recommender, examples, "strict")
    ndcg_of_u1 = 1 / (1 + 1 / math.log2(3))  # one of two targets, in the first place
    assert figures["recall"] == pytest.approx((1 + 0.5) / 4)
    assert figures["ndcg"] == pytest.approx((1 + ndcg_of_u1) / 4)
    low, high = figures["recall_interval"]
    assert 0 <= low < figures["recall"] < high <= 1
