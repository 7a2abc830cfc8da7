"""Popularity and item-kNN beside loops over users and items."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atspeed_core.evaluation.baselines import (
    ItemKnnSettings,
    PopularitySettings,
    TrainingData,
    item_similarities,
    membership,
    nearest,
    recommend_popular,
    recommend_similar,
    top_items,
    tune_item_knn,
    tune_popularity,
)

ITEMS = list("abcdefg")
SEQUENCES = st.lists(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=6), min_size=1, max_size=8)


def naive_similarity(first: str, second: str, users: list[set[str]], shrinkage: float) -> float:
    both = sum(first in user and second in user for user in users)
    counts = [sum(item in user for user in users) for item in (first, second)]
    return both / (math.sqrt(counts[0] * counts[1]) + shrinkage) if both and first != second else 0.0


@given(sequences=SEQUENCES, shrinkage=st.sampled_from([0.0, 10.0]))
def test_similarities_are_those_of_a_naive_loop(sequences: list[list[str]], shrinkage: float) -> None:
    found = item_similarities(TrainingData.from_sequences(ITEMS, sequences).matrix, shrinkage).toarray()
    users = [set(sequence) for sequence in sequences]
    naive = [[naive_similarity(first, second, users, shrinkage) for second in ITEMS] for first in ITEMS]
    np.testing.assert_allclose(found, naive)


@given(sequences=SEQUENCES, neighbours=st.integers(1, 4))
def test_nearest_keeps_the_largest_of_each_row(sequences: list[list[str]], neighbours: int) -> None:
    similar = item_similarities(TrainingData.from_sequences(ITEMS, sequences).matrix, 0.0)
    for row, kept in zip(similar.toarray(), nearest(similar, neighbours).toarray(), strict=True):
        assert sorted(kept[kept > 0], reverse=True) == sorted(row[row > 0], reverse=True)[:neighbours]
        assert all(kept[place] in (0, row[place]) for place in range(len(row)))


@given(scores=arrays(np.float64, (3, 7), elements=st.integers(0, 3)), k=st.integers(1, 7))
def test_top_items_equal_a_full_sort(scores: np.ndarray, k: int) -> None:
    popularity = np.array([5.0, 9.0, 1.0, 9.0, 0.0, 2.0, 7.0])
    for row, best in zip(scores, top_items(scores, popularity, k), strict=True):
        assert best.tolist() == sorted(range(7), key=lambda item: (-row[item], -popularity[item], item))[:k]


@given(sequences=SEQUENCES, history=st.lists(st.sampled_from([*ITEMS, "unknown"]), min_size=1, max_size=6))
def test_item_knn_sums_the_similarities_to_the_last_items(sequences: list[list[str]], history: list[str]) -> None:
    data = TrainingData.from_sequences(ITEMS, sequences)
    settings = ItemKnnSettings(neighbours=7, shrinkage=1.0, last_items=2, exclude_seen=True)
    found = recommend_similar(data, settings, [history], 3)[0]
    users = [set(sequence) for sequence in sequences]
    recent = set(history[-2:]) & set(ITEMS)
    naive = {item: sum(naive_similarity(item, had, users, 1.0) for had in recent) for item in ITEMS}
    assert not set(found) & set(history)
    assert len(found) == min(3, len(set(ITEMS) - set(history)))
    assert all(naive[a] >= naive[b] - 1e-12 for a, b in pairwise(found))
    rest = set(ITEMS) - set(history) - set(found)
    assert all(naive[left] <= naive[found[-1]] + 1e-12 for left in rest)


def test_popularity_with_and_without_seen_items() -> None:
    data = TrainingData.from_sequences(ITEMS, [["a", "b"], ["a", "c"], ["a", "b", "d"]])
    known = [["a"], ["g"]]
    assert recommend_popular(data, PopularitySettings(exclude_seen=True), known, 2) == [["b", "c"], ["a", "b"]]
    assert recommend_popular(data, PopularitySettings(exclude_seen=False), known, 2) == [["a", "b"]] * 2


def test_repeated_and_unknown_items_count_once_and_not_at_all() -> None:
    matrix = membership({"a": 0, "b": 1}, [["b", "b", "unknown"], []])
    np.testing.assert_array_equal(matrix.toarray(), [[0, 1], [0, 0]])


def test_tuning_finds_that_only_the_last_items_tell() -> None:
    pairs = [(f"old {n}", f"new {n}") for n in range(30)]
    items = [item for pair in pairs for item in pair]
    data = TrainingData.from_sequences(items, [list(pair) for pair in pairs] * 3)
    known = [[old for old, _ in pairs[:n] + pairs[n + 1 :]] + [pairs[n][0]] * 5 for n in range(30)]
    settings = tune_item_knn(data, known, [[new] for _, new in pairs], max_history=20)
    assert settings.last_items == 5
    assert recommend_similar(data, settings, known, 1) == [[new] for _, new in pairs]


@pytest.mark.parametrize(("target", "excluded"), [("a", False), ("b", True)])
def test_popularity_is_tuned_on_validation_users(target: str, excluded: bool) -> None:
    data = TrainingData.from_sequences(ITEMS, [["a", "b"], ["a", "c"], ["a", "b"]])
    assert tune_popularity(data, [["a"]], [[target]]) == PopularitySettings(exclude_seen=excluded)
