"""Rating threshold, duplicate policy and k-core."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.data.filtering import at_least, in_time_order, k_core, may_remain, sampled, without_duplicates
from atspeed_core.errors import UserError
from tests.complete_params import PrepareData

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


def frame(rows: list[tuple[int, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "item_id"]).astype("str")


def naive_k_core(rows: list[tuple[int, int]], k: int) -> list[tuple[int, int]]:
    while True:
        users, items = [u for u, _ in rows], [i for _, i in rows]
        left = [(u, i) for u, i in rows if users.count(u) >= k and items.count(i) >= k]
        if left == rows:
            return rows
        rows = left


def test_threshold_keeps_equal_ratings() -> None:
    rated = pd.DataFrame({"rating": [3.5, 4.0, 4.5]})
    assert at_least(rated, 4.0)["rating"].tolist() == [4.0, 4.5]


def test_threshold_without_ratings_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no ratings; set it to null"):
        at_least(frame([(0, 0)]), 4.0)


def test_equal_times_keep_the_source_order() -> None:
    timed = pd.DataFrame({"item_id": list("abcd"), "timestamp": [5, 1, 5, 1]})
    assert in_time_order(timed)["item_id"].tolist() == ["b", "d", "a", "c"]


def test_without_times_the_source_order_is_kept() -> None:
    assert in_time_order(frame([(2, 1), (1, 1)]))["user_id"].tolist() == ["2", "1"]


@pytest.mark.parametrize(("policy", "kept"), [("first", [0, 1, 3]), ("last", [1, 2, 3]), ("all", [0, 1, 2, 3])])
def test_duplicate_policies(policy: str, kept: list[int]) -> None:
    repeated = frame([(1, 1), (1, 2), (1, 1), (2, 1)])
    assert without_duplicates(repeated, policy).index.tolist() == kept


def test_policy_error_names_the_place() -> None:
    repeated = frame([(1, 1), (1, 2), (1, 1)]).rename_axis("line")
    with pytest.raises(UserError, match=r"1 repeated .*line 2: user '1', item '1'.*set duplicates"):
        without_duplicates(repeated, "error")
    assert len(without_duplicates(repeated.iloc[:2], "error")) == 2


@given(pairs, st.integers(1, 4))
def test_k_core_is_the_naive_fixpoint(rows: list[tuple[int, int]], k: int) -> None:
    left = k_core(frame(rows), k)
    assert [(int(u), int(i)) for u, i in left.itertuples(index=False)] == naive_k_core(rows, k)
    assert (left["user_id"].value_counts() >= k).all()
    assert (left["item_id"].value_counts() >= k).all()


@given(pairs, st.integers(1, 4))
def test_what_may_remain_holds_all_that_the_k_core_leaves(rows: list[tuple[int, int]], k: int) -> None:
    rated = frame(rows).assign(rating=[float(user % 3) for user, _ in rows])
    settings = PrepareData(dataset="t", source="table", path="t", rating_threshold=1.0, k_core=k)
    assert may_remain(rated, settings) >= set(k_core(at_least(rated, 1.0), k)["item_id"])


@given(pairs, st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_a_sample_is_of_whole_users_that_the_k_core_may_leave(
    rows: list[tuple[int, int]], num_users: int, k: int, seed: int
) -> None:
    whole = frame(rows)
    sample = sampled(whole, num_users, seed, k)
    sizes = whole["user_id"].value_counts()
    assert sample["user_id"].nunique() == min(num_users, (sizes >= k).sum())
    assert (sample["user_id"].value_counts() == sizes[sizes.index.isin(sample["user_id"])]).all()
    assert sample.index.is_monotonic_increasing
    backwards = sampled(whole[::-1].astype("category"), num_users, seed, k)
    assert backwards.index.sort_values().tolist() == sample.index.tolist()


def test_another_seed_draws_other_users() -> None:
    many = frame([(user, 0) for user in range(1000)])
    first, second = (set(sampled(many, 100, seed)["user_id"]) for seed in (0, 1))
    assert len(first) == len(second) == 100
    assert 0 < len(first & second) < 100
