"""A day like the others passes; each kind of change is found by its own check."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.data.drift import (
    NUM_GROUPS,
    Bounds,
    Check,
    check_day,
    new_share,
    popularity_groups,
    popularity_shift,
    rating_shift,
    stability_index,
)
from atspeed_core.data.partitions import DAY_SECONDS
from tasks.presets import Checks

BOUNDS = Bounds(**Checks().model_dump())
PER_DAY = 300


def draw(seed: int, first_day: int, num_days: int = 1, num_items: int = 200, scale: float = 1.0) -> pd.DataFrame:
    """Days of PER_DAY interactions: Zipf popularity, 80 users, ratings 1 to 5."""
    random = np.random.default_rng(seed)
    rows = PER_DAY * num_days
    weights = 1 / np.arange(1, num_items + 1)
    return pd.DataFrame(
        {
            "user_id": random.integers(0, 80, rows).astype(str),
            "item_id": random.choice(num_items, rows, p=weights / weights.sum()).astype(str),
            "rating": np.clip(random.integers(1, 6, rows) * scale, 0, 5),
            "timestamp": np.repeat(np.arange(first_day, first_day + num_days) * DAY_SECONDS, PER_DAY),
        }
    )


EARLIER = draw(0, first_day=0, num_days=40)


def failed(day: pd.DataFrame, bounds: Bounds = BOUNDS, earlier: pd.DataFrame = EARLIER) -> list[str]:
    return [check.setting for check in check_day(earlier, day, bounds) if check.judged and not check.ok]


def figure(checks: list[Check], setting: str) -> Check:
    return next(check for check in checks if check.setting == setting)


@pytest.mark.parametrize("seed", range(1, 21))
def test_a_day_like_the_others_passes(seed: int) -> None:
    assert failed(draw(seed, first_day=40)) == []


def test_each_change_is_found_by_its_check_alone() -> None:
    day = draw(1, first_day=40)
    reversed_items = day.assign(item_id=(199 - day["item_id"].astype(int)).astype(str))
    assert failed(day.iloc[:0]) == ["volume_low"]
    assert failed(day.head(29)) == ["volume_low"]
    assert failed(pd.concat([day] * 11)) == ["volume_high"]
    assert failed(day.assign(item_id="new" + day["item_id"])) == ["max_new_items"]
    assert failed(day.assign(user_id="new" + day["user_id"])) == ["max_new_users"]
    assert failed(reversed_items) == ["max_popularity_shift"]
    assert failed(day.assign(rating=day["rating"] / 5)) == ["max_rating_shift"]


def test_few_interactions_are_told_but_not_judged() -> None:
    day = draw(1, first_day=40).head(BOUNDS.min_rows - 1).assign(user_id="new", rating=0.0)
    checks = check_day(EARLIER, day, BOUNDS)
    users = figure(checks, "max_new_users")
    assert (users.value, users.ok, users.judged) == (1.0, False, False)
    assert failed(day) == []
    assert failed(day, replace(BOUNDS, min_rows=len(day))) == ["max_new_users", "max_rating_shift"]


def test_an_empty_day_has_a_volume_and_nothing_else() -> None:
    checks = check_day(EARLIER, EARLIER.iloc[:0], replace(BOUNDS, min_rows=1))
    assert [check.value for check in checks] == [0.0, 0.0, None, None, None, None]
    assert [check.setting for check in checks if check.judged] == ["volume_low", "volume_high"]


def test_only_days_of_the_window_count_for_the_volume_and_days_without_interactions_do_not() -> None:
    busy = pd.concat([draw(seed, first_day=0) for seed in range(30)])  # one day, 30 times as full
    earlier = pd.concat([busy, draw(1, first_day=3), draw(2, first_day=9)])
    day = draw(3, first_day=20)
    volumes = {
        n: figure(check_day(earlier, day, replace(BOUNDS, window_days=n)), "volume_low").value for n in (1, 2, 3)
    }
    assert volumes == {1: 1.0, 2: 1.0, 3: 1.0}
    more = pd.concat([busy, draw(1, first_day=3)])
    assert figure(check_day(more, day, replace(BOUNDS, window_days=2)), "volume_low").value == pytest.approx(1 / 15.5)
    assert figure(check_day(more, day, replace(BOUNDS, window_days=1)), "volume_low").value == 1.0


def test_data_without_ratings_have_no_rating_check() -> None:
    checks = check_day(EARLIER.drop(columns="rating"), draw(1, first_day=40).drop(columns="rating"), BOUNDS)
    assert "rating_shift" not in [check.name for check in checks]


def test_the_bounds_are_those_of_the_preset() -> None:
    assert asdict(BOUNDS) == Checks().model_dump()
    settings = [check.setting for check in check_day(EARLIER, draw(1, first_day=40), BOUNDS)]
    assert {*settings, "window_days", "min_rows"} == set(asdict(BOUNDS))


def test_shares_of_new_ids() -> None:
    assert new_share(pd.Series(["a", "b"]), pd.Series(["a", "c", "c", "d"])) == 0.75
    assert new_share(pd.Series(["a"]), pd.Series([], dtype="str")) is None


def test_popularity_groups_hold_a_tenth_of_the_interactions_each() -> None:
    items = EARLIER["item_id"]
    groups = popularity_groups(items)
    assert groups.between(0, NUM_GROUPS - 1).all()
    counts = items.value_counts()[groups.index]
    assert (groups.diff().dropna() >= 0).all()  # popular items first
    assert (counts.diff().dropna() <= 0).all()
    shares = items.map(groups).value_counts(normalize=True)
    assert shares[shares.index > 2].between(0.05, 0.15).all()  # the first groups hold an item or two, or none


def test_known_values() -> None:
    expected = (0.75 - 0.25) * np.log(3) * 2
    assert stability_index(np.array([249_999.5, 749_999.5]), np.array([749_999.5, 249_999.5])) == pytest.approx(
        expected
    )
    assert rating_shift(pd.Series([1.0, 2.0, 3.0, 4.0]), pd.Series([3.0, 4.0])) == 0.5
    assert rating_shift(pd.Series([1.0, 2.0]), pd.Series([1.0, 2.0])) == 0.0
    assert popularity_shift(pd.Series(["a"]), pd.Series(["a"]), pd.Series(["b"])) is None


COUNTS = st.lists(st.integers(0, 1000), min_size=NUM_GROUPS, max_size=NUM_GROUPS).map(np.array)


@given(expected=COUNTS, found=COUNTS)
def test_the_stability_index_is_a_symmetric_distance(expected: np.ndarray, found: np.ndarray) -> None:
    index = stability_index(expected, found)
    assert np.isfinite(index)
    assert index >= 0
    assert index == pytest.approx(stability_index(found, expected))
    assert stability_index(expected, expected) == 0
