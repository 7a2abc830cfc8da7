"""Recall and NDCG compared with a loop that follows the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.metrics import Answers
from atspeed_core.metrics.ndcg import METRIC as NDCG
from atspeed_core.metrics.recall import METRIC as RECALL

ITEMS = st.sampled_from([f"item {n}" for n in range(12)])
LISTS = st.lists(ITEMS, unique=True, max_size=10)
USERS = st.lists(st.tuples(LISTS, st.lists(ITEMS, unique=True, min_size=1, max_size=5)), min_size=1, max_size=6)


def naive_recall(items: list[str], targets: list[str], k: int) -> float:
    return sum(item in targets for item in items[:k]) / len(targets)


def naive_ndcg(items: list[str], targets: list[str], k: int) -> float:
    gain = sum(1 / math.log2(place + 2) for place, item in enumerate(items[:k]) if item in targets)
    return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(targets))))


@given(users=USERS, k=st.integers(1, 12))
def test_equal_to_the_definitions_for_any_lists(users: list[tuple[list[str], list[str]]], k: int) -> None:
    answers = Answers([items for items, _ in users], [targets for _, targets in users], k)
    assert RECALL.measure(answers) == pytest.approx([naive_recall(items, targets, k) for items, targets in users])
    assert NDCG.measure(answers) == pytest.approx([naive_ndcg(items, targets, k) for items, targets in users])


def test_users_without_a_hit_or_a_list_count_as_zero() -> None:
    answers = Answers([["a", "b"], ["x"], []], [["b"], ["a"], ["a"]], 2)
    np.testing.assert_array_equal(RECALL.measure(answers), [1, 0, 0])
    np.testing.assert_allclose(NDCG.measure(answers), [1 / math.log2(3), 0, 0])


def test_only_the_first_k_items_count() -> None:
    assert RECALL.measure(Answers([["x", "a"]], [["a"]], 1)).tolist() == [0]
    assert RECALL.measure(Answers([["x", "a"]], [["a"]], 2)).tolist() == [1]
