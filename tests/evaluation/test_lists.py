"""Lists against the reference: identity, swaps, and files that do not fit."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from atspeed_core.errors import UserError
from atspeed_core.evaluation.lists import (
    check_ks,
    choose_users,
    collect_lists,
    in_batches,
    largest_swap_gap,
    lists_digest,
    read_reference,
    same_lists,
    same_sets,
    write_reference,
)


def frame(*lists: str, scores: tuple[float, ...] = (-1.0, -1.5, -3.0)) -> pd.DataFrame:
    return pd.DataFrame({"items": [list(row) for row in lists], "scores": [list(scores)] * len(lists)})


def test_identity_looks_at_the_order_and_sets_do_not() -> None:
    ours, reference = [["a", "b"], ["b", "a"], ["a", "c"]], [["a", "b"], ["a", "b"], ["a", "b"]]
    assert same_lists(ours, reference) == [True, False, False]
    assert same_sets(ours, reference) == [True, True, False]


@pytest.mark.parametrize(
    ("ours", "gap"),
    [
        ("abc", 0.0),
        ("bac", 0.5),  # a (-1) and b (-1.5) changed places
        ("acb", 1.5),
        ("abx", 0.25),  # x is not in the reference: its own score, -3.25, against c's
    ],
)
def test_swap_gap(ours: str, gap: float) -> None:
    found = frame(ours, scores=(-1.0, -1.5, -3.25))
    assert largest_swap_gap(found, frame("abc")) == pytest.approx(gap)


def test_batches_cover_all_users_in_order(recommender: Any) -> None:
    histories = [[f"i{n}", f"j{n}"] for n in range(5)]
    firsts: list[int] = []
    lists = collect_lists(
        lambda batch, first: (firsts.append(first), recommender.generate(batch, 2))[1], in_batches(histories, 2)
    )
    assert firsts == [0, 2, 4]
    assert lists["items"].tolist() == [history[::-1] for history in histories]
    assert lists["target_calls"].tolist() == [4] * 5


def test_reference_comes_back_in_the_order_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "lists.parquet"
    write_reference(path, ["u1", "u2"], {1: frame("a", "b", scores=(-1.0,)), 3: frame("abc", "bca")})
    back = read_reference(path, ["u2", "u1"], [3])
    assert list(back) == [3]
    assert same_lists(back[3]["items"], [list("bca"), list("abc")]) == [True, True]
    assert back[3]["scores"][0].tolist() == [-1.0, -1.5, -3.0]


@pytest.mark.parametrize(
    ("users", "ks", "message"),
    [(["u1"], [3], "its users are not those"), (["u1", "u2"], [3, 5], r"no lists of K = 5 \(has \[3\]\)")],
)
def test_reference_that_does_not_fit_is_refused(tmp_path: Path, users: list[str], ks: list[int], message: str) -> None:
    write_reference(tmp_path / "lists.parquet", ["u1", "u2"], {3: frame("abc", "bca")})
    with pytest.raises(UserError, match=message):
        read_reference(tmp_path / "lists.parquet", users, ks)


def test_missing_or_damaged_reference_names_file_and_stage(tmp_path: Path) -> None:
    path = tmp_path / "lists.parquet"
    with pytest.raises(UserError, match=r"lists.parquet: no such file; run the evaluate_target stage"):
        read_reference(path, ["u1"], [1])
    path.write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=r"^[^\n]*not a readable parquet file[^\n]*$"):
        read_reference(path, ["u1"], [1])


def test_digest_tells_other_lists_apart_and_ignores_the_type_of_sequence() -> None:
    made, read = frame("abc"), frame("abc")
    read["items"] = [pd.array(list("abc"), dtype="str").to_numpy(dtype=object)]
    assert lists_digest({3: made}) == lists_digest({3: read})
    assert lists_digest({3: made}) != lists_digest({3: frame("acb")})


def test_timing_users_are_drawn_once_for_all_methods() -> None:
    assert choose_users(100, 10, seed=0) == choose_users(100, 10, seed=0)
    assert len(set(choose_users(100, 10, seed=0))) == 10
    assert choose_users(3, 10, seed=0) == [0, 1, 2]


@pytest.mark.parametrize(("users", "message"), [(10, "K = 20 is larger than the catalog"), (1, "two at least")])
def test_what_cannot_be_measured_is_refused(users: int, message: str) -> None:
    check_ks([1, 20], 20, 2)
    with pytest.raises(UserError, match=message):
        check_ks([1, 20 if users > 1 else 2], 19, users)
