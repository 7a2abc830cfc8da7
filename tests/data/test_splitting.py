"""The parts never overlap, the future never leaks into a history, boundaries go to the later part."""

from collections.abc import Callable

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.data.filtering import in_time_order
from atspeed_core.data.splitting import PARTS, boundaries, chronological, example_table, leave_one_out, train_table
from atspeed_core.errors import UserError

events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=60)
Cut = Callable[[pd.DataFrame], pd.DataFrame]
both = pytest.mark.parametrize("cut", [chronological, leave_one_out])


def frame(rows: list[tuple[int, int, int]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).astype({"user_id": "str", "item_id": "str"})
    return in_time_order(table)


@both
@given(rows=events)
def test_parts_partition_the_interactions(cut: Cut, rows: list[tuple[int, int, int]]) -> None:
    whole = frame(rows)
    parted = cut(whole)
    assert parted["part"].isin(PARTS).all()
    kept_users = whole["user_id"].isin(parted["user_id"])
    pd.testing.assert_frame_equal(parted.drop(columns="part"), whole[kept_users])  # whole users stay or go
    if cut is leave_one_out:
        assert kept_users.all()


@both
@given(rows=events)
def test_no_history_holds_the_future(cut: Cut, rows: list[tuple[int, int, int]]) -> None:
    parted = cut(frame(rows))
    for _, own in parted.groupby("user_id"):
        order = own["part"].map(PARTS.index)
        assert order.is_monotonic_increasing
        assert own["timestamp"].is_monotonic_increasing
    if cut is chronological:
        ends = [parted.loc[parted["part"] == part, "timestamp"] for part in PARTS]
        assert ends[0].max() < ends[1].min() or ends[1].empty
        assert parted.loc[parted["part"] != "test", "timestamp"].max() < ends[2].min() or ends[2].empty


@both
@given(rows=events, max_history=st.integers(1, 5))
def test_tables_hold_each_interaction_once(cut: Cut, rows: list[tuple[int, int, int]], max_history: int) -> None:
    parted = cut(frame(rows))
    train = train_table(parted)
    assert train["item_ids"].map(len).sum() == (parted["part"] == "train").sum()
    for part in ("valid", "test"):
        for example in example_table(parted, part, max_history).itertuples():
            own = parted[parted["user_id"] == example.user_id]
            before = own[own["part"].isin(PARTS[: PARTS.index(part)])]["item_id"].tolist()
            assert example.history == before[-max_history:]
            assert example.history
            assert example.targets == own[own["part"] == part]["item_id"].tolist()
            assert example.target_timestamps == own[own["part"] == part]["timestamp"].tolist()


def test_an_interaction_at_a_boundary_belongs_to_the_later_part() -> None:
    rows = [(1, i, t) for i, t in enumerate([1, 2, 3, 4, 5, 6, 7, 8, 8, 9])]
    assert boundaries(frame(rows)["timestamp"]) == (8, 9)
    assert chronological(frame(rows))["part"].tolist() == ["train"] * 7 + ["valid"] * 2 + ["test"]


def test_chronological_drops_users_with_fewer_than_two_training_items() -> None:
    rows = [(1, i, i) for i in range(8)] + [(2, 0, 0), (2, 1, 8), (3, 5, 9)]
    assert set(chronological(frame(rows))["user_id"]) == {"1"}


def test_chronological_without_times_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no timestamps; set split to leave_one_out"):
        chronological(pd.DataFrame({"user_id": ["1"], "item_id": ["1"]}))


def test_leave_one_out_holds_back_the_last_two() -> None:
    rows = [(1, 5, 3), (1, 6, 1), (1, 7, 2), (2, 5, 1), (2, 6, 2)]
    parted = leave_one_out(frame(rows)).sort_index()
    assert parted["part"].tolist() == ["test", "train", "valid", "train", "train"]


def test_test_histories_hold_the_validation_items_and_are_capped() -> None:
    parted = leave_one_out(frame([(1, i, i) for i in range(6)]))
    (test,) = example_table(parted, "test", 3).itertuples()
    (valid,) = example_table(parted, "valid", 3).itertuples()
    assert (test.history, test.targets) == (["2", "3", "4"], ["5"])
    assert (valid.history, valid.targets) == (["1", "2", "3"], ["4"])


def test_without_times_the_tables_have_none() -> None:
    parted = leave_one_out(frame([(1, i, i) for i in range(4)]).drop(columns="timestamp"))
    assert train_table(parted)["timestamps"].isna().all()
    assert example_table(parted, "test", 3)["target_timestamps"].isna().all()
