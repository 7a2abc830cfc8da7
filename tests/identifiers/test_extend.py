"""Identifiers over two nights: who keeps, who gets a new one, and when all are made anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from atspeed_core.identifiers.build import Identifiers, build_identifiers
from atspeed_core.identifiers.extend import Earlier, extend, load_earlier, refit
from atspeed_core.identifiers.quantization import Quantization
from atspeed_core.settings import RqVae
from tests.complete_params import BuildIdentifiers

GENRES = ["western", "horror", "romance", "comedy"]
VAE = RqVae(latent_dim=8, hidden_dims=[16], epochs=5)


def films(first: int, last: int) -> pd.DataFrame:
    """Films number `first` to `last` - 1, by item id."""
    rows = [
        {"item_id": f"i{n:02}", "title": f"Film {n}", "text": f"Film {n} {GENRES[n % 4]}"} for n in range(first, last)
    ]
    return pd.DataFrame(rows)


def sequences(items: pd.DataFrame) -> list[list[str]]:
    """Every user watches films of one genre."""
    rng = np.random.default_rng(0)
    by_genre = [items["item_id"][items["text"].str.endswith(genre)].tolist() for genre in GENRES]
    return [rng.permutation(by_genre[user % 4])[:8].tolist() for user in range(80)]


def settings(**changes: Any) -> BuildIdentifiers:
    values = {"codebook_width": 8, "embedding_dim": 16, "num_levels": 3, "rebuild_above": 3.0, "rq_vae": VAE}
    return BuildIdentifiers(**values | changes)


def night(items: pd.DataFrame, earlier: Earlier | None = None, **changes: Any) -> Identifiers:
    return build_identifiers(items, sequences(items), settings(**changes), earlier)


def as_earlier(made: Identifiers) -> Earlier:
    return Earlier(made.catalog.identifiers(), made.report["method"], made.report["codebook_width"])


@pytest.mark.parametrize("method", ["rq_kmeans", "rq_vae"])
def test_known_items_keep_their_identifiers_and_new_ones_get_others(method: str) -> None:
    first = night(films(0, 50), method=method)
    second = night(films(5, 60), as_earlier(first), method=method)
    before, now = first.catalog.identifiers(), second.catalog.identifiers()
    known, new = [f"i{n:02}" for n in range(5, 50)], [f"i{n:02}" for n in range(50, 60)]
    assert list(now) == [*known, *new]
    assert all(now[item] == before[item] for item in known)
    assert second.catalog.num_collisions() == 0
    facts = {key: second.report[key] for key in ("kept", "new", "rebuilt")}
    assert facts == {"kept": 45, "new": 10, "rebuilt": False}
    assert 0 < second.report["error_fresh"] < second.report["error_kept"]
    assert second.report["quantization_error"][-1] == second.report["error_kept"]


def test_a_new_item_joins_the_known_items_of_its_kind() -> None:
    """The champion's identifiers put every genre under one first code; a new western goes there too."""
    first = night(films(0, 52), codebook_width=4, num_levels=4)
    second = night(films(0, 60), as_earlier(first), codebook_width=4, num_levels=4).catalog
    first_codes = second.codes[:, 0]
    assert [len(set(first_codes[genre::4])) for genre in range(4)] == [1] * 4
    assert len(set(first_codes)) == 4


def test_a_night_without_change_keeps_everything_at_the_error_of_a_fresh_build() -> None:
    first = night(films(0, 50))
    second = night(films(0, 50), as_earlier(first), rebuild_above=1.0)
    assert second.catalog.identifiers() == first.catalog.identifiers()
    assert second.report["error_kept"] == second.report["error_fresh"]
    assert second.report["rebuilt"] is False


def test_identifiers_that_fit_badly_are_all_made_anew() -> None:
    first = night(films(0, 50))
    rows = list(first.catalog.identifiers().values())
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = Earlier({item: rows[n] for item, n in zip(first.catalog.items, order, strict=True)}, "rq_kmeans", 8)
    second, fresh = night(films(0, 60), shuffled, rebuild_above=1.15), night(films(0, 60))
    assert second.catalog.identifiers() == fresh.catalog.identifiers()
    assert second.report["rebuilt"] is True
    assert second.report["error_kept"] > 1.15 * second.report["error_fresh"]
    assert "rebuilt above" in second.report["reason"]
    assert night(films(0, 60), shuffled, rebuild_above=1000.0).report["rebuilt"] is False


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"codebook_width": 16}, "codebook_width was 8, is 16"),
        ({"num_levels": 4}, "num_levels was 3, is 4"),
        ({"method": "rq_vae"}, "method was rq_kmeans, is rq_vae"),
    ],
)
def test_identifiers_of_another_form_are_made_anew(changed: dict[str, Any], said: str) -> None:
    second = night(films(0, 50), as_earlier(night(films(0, 50))), **changed)
    assert second.report["reason"] == said
    assert second.report["rebuilt"] is True
    assert second.catalog.identifiers() == night(films(0, 50), **changed).catalog.identifiers()


def test_nothing_is_kept_where_no_item_is_known() -> None:
    second = night(films(50, 90), as_earlier(night(films(0, 50))))
    assert second.report["reason"] == "the champion knew none of the items"
    assert (second.report["kept"], second.report["new"], second.report["rebuilt"]) == (0, 40, True)


def test_shared_identifiers_stay_only_while_they_are_allowed() -> None:
    tight = {"codebook_width": 4, "num_levels": 2}
    first = night(films(0, 14), **tight, collisions="allow")
    assert first.catalog.num_collisions() > 0
    again = night(films(0, 14), as_earlier(first), **tight, collisions="allow")
    assert again.report["kept"] == 14
    resolved = night(films(0, 14), as_earlier(first), **tight)
    assert "share identifiers" in resolved.report["reason"]
    assert resolved.catalog.num_collisions() == 0


def test_a_given_file_counts_but_does_not_keep(tmp_path: Path) -> None:
    write_json(tmp_path / "given.json", {f"i{n:02}": [f"<a_{n}>", "<b_0>"] for n in range(4)})
    given_file = BuildIdentifiers(method="file", file=str(tmp_path / "given.json"))
    earlier = Earlier({"i00": ["<a_0>", "<b_0>"], "i01": ["<a_9>", "<b_0>"]}, "file", None)
    report = build_identifiers(films(0, 4), [], given_file, earlier).report
    assert (report["kept"], report["new"], report["rebuilt"]) == (1, 2, True)


def test_codes_are_refitted_to_the_means_of_their_items() -> None:
    vectors = np.array([[1, 0], [3, 0], [0, 5], [0, 7]], dtype=np.float32)
    codes = np.array([[0, 0], [0, 1], [2, 0], [2, 1]])
    books = refit(vectors, codes, 3)
    np.testing.assert_array_equal(books[0], [[2, 0], [0, 0], [0, 6]])
    np.testing.assert_array_equal(books[1], [[-0.5, -0.5], [0.5, 0.5], [0, 0]])
    assert Quantization(vectors, books, codes).errors(codes)[-1] == pytest.approx(2 / 84)


def test_a_taken_identifier_moves_the_new_item_alone() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], dtype=np.float32)
    known = np.array([[0, 0], [1, 1], [-1, -1], [-1, -1]])
    made = extend(vectors, known, settings(codebook_width=3))
    assert made.quantization.codes.tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]
    assert made.codes[:2].tolist() == known[:2].tolist()
    assert sorted(made.codes[2:].tolist()) == [[0, 1], [0, 2]]
    shared = extend(vectors, known, settings(codebook_width=3, collisions="allow"))
    assert shared.codes[2:].tolist() == [[0, 0], [0, 0]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3))
def test_whatever_is_known_stays_and_all_are_distinct(seed: int, width: int, num_levels: int) -> None:
    rng = np.random.default_rng(seed)
    capacity = width**num_levels
    num_items = int(rng.integers(1, capacity + 1))
    chosen = rng.permutation(capacity)[:num_items]
    codes = np.stack(np.unravel_index(chosen, [width] * num_levels), axis=1).astype(np.int64)
    is_new = rng.random(num_items) < 0.5
    is_new[0] = False
    known = np.where(is_new[:, None], -1, codes)
    vectors = rng.normal(size=(num_items, 3)).astype(np.float32)
    made = extend(vectors, known, settings(codebook_width=width, num_levels=num_levels))
    assert (made.codes[~is_new] == codes[~is_new]).all()
    assert len(np.unique(made.codes, axis=0)) == num_items
    assert made.codes.min() >= 0
    assert made.codes.max() < width


def test_earlier_identifiers_are_read_or_refused(tmp_path: Path) -> None:
    assert load_earlier(tmp_path / "none") is None
    write_json(tmp_path / "identifiers.json", {"i0": ["<a_0>"]})
    with pytest.raises(UserError, match=r"report.json: cannot be read .*run the warm_start stage again"):
        load_earlier(tmp_path)
    write_json(tmp_path / "report.json", {"method": "rq_vae", "codebook_width": 4})
    assert load_earlier(tmp_path) == Earlier({"i0": ["<a_0>"]}, "rq_vae", 4)
