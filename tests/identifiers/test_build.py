"""Items and training sequences to identifiers and their report; identifiers from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from atspeed_core.identifiers.build import build_identifiers
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.identifiers.facts import children_by_depth, codebook_use, neighbours
from atspeed_core.settings import RqVae
from tests.complete_params import BuildIdentifiers

GENRES = ["western", "horror", "romance", "comedy"]


def films(num_items: int = 60) -> pd.DataFrame:
    rows = [{"item_id": f"i{n}", "title": f"Film {n}", "text": f"Film {n} {GENRES[n % 4]}"} for n in range(num_items)]
    return pd.DataFrame(rows)


def sequences(num_users: int = 80) -> list[list[str]]:
    """Every user watches films of one genre."""
    rng = np.random.default_rng(0)
    return [[f"i{4 * n + user % 4}" for n in rng.permutation(15)[:8]] for user in range(num_users)]


def settings(**changes: Any) -> BuildIdentifiers:
    values = {"codebook_width": 8, "embedding_dim": 16, "num_levels": 3, **changes}
    return BuildIdentifiers(**values)


@pytest.mark.parametrize("method", ["rq_kmeans", "rq_vae"])
def test_every_item_gets_an_identifier_of_its_own(method: str) -> None:
    vae = RqVae(latent_dim=8, hidden_dims=[16], epochs=5)
    made = build_identifiers(films(), sequences(), settings(method=method, rq_vae=vae))
    assert made.catalog.items == films()["item_id"].tolist()
    assert made.catalog.num_collisions() == 0
    assert made.catalog.num_levels == 3
    assert all(row[2].startswith("<c_") for row in made.catalog.identifiers().values())
    assert made.codebooks is not None
    assert made.codebooks.shape[:2] == (3, 8)


def test_items_of_one_genre_share_their_first_code() -> None:
    catalog = build_identifiers(films(), sequences(), settings(codebook_width=4, num_levels=4)).catalog
    first = catalog.codes[:, 0]
    assert [len(set(first[genre::4])) for genre in range(4)] == [1] * 4
    assert len(set(first)) == 4


def test_collisions_may_be_allowed() -> None:
    tight = {"codebook_width": 2, "num_levels": 2}
    made = build_identifiers(films(), sequences(), settings(**tight, collisions="allow"))
    counts = made.report["collisions"]
    assert counts["items_after"] == counts["items_before"] == made.catalog.num_collisions() > 50
    with pytest.raises(UserError, match=r"60 items do not fit"):
        build_identifiers(films(), sequences(), settings(**tight))


def test_the_report_agrees_with_the_catalog() -> None:
    made = build_identifiers(films(), sequences(), settings())
    report = made.report
    assert report["num_items"] == 60
    assert report["prefixes_by_depth"] == made.catalog.trie.prefixes_by_depth()
    assert report["collisions"]["items_after"] == 0
    assert report["collisions"]["items_before"] >= report["collisions"]["items_moved"] > 0
    assert [use["level"] for use in report["codebook_use"]] == [1, 2, 3]
    assert 0 < report["quantization_error"][1] < report["quantization_error"][0] < 1
    for group in report["neighbours"]:
        depth = len(group["prefix"])
        members = [i for i, tokens in made.catalog.identifiers().items() if tokens[:depth] == group["prefix"]]
        assert group["num_items"] == len(members)
        assert group["titles"] == [f"Film {item[1:]}" for item in members[:8]]
    assert report["neighbours"]


CATALOG = Catalog.from_identifiers(
    {"w": ["<a_0>", "<b_0>"], "x": ["<a_0>", "<b_1>"], "y": ["<a_0>", "<b_2>"], "z": ["<a_1>", "<b_0>"]}
)


def test_children_by_depth() -> None:
    expected = [{"depth": 0, "mean": 2.0, "max": 2}, {"depth": 1, "mean": 2.0, "max": 3}]
    assert children_by_depth(CATALOG.trie) == expected


def test_codebook_use_counts_codes_and_their_perplexity() -> None:
    use = codebook_use(CATALOG, 0, 8)
    assert use == {"level": 1, "used": 2, "share_used": 0.25, "perplexity": 1.75}  # exp of the entropy of (3/4, 1/4)
    assert codebook_use(CATALOG, 0, None)["share_used"] is None


def test_neighbours_are_items_under_one_prefix() -> None:
    titles = ["W", "X", "Y", "Z"]
    assert neighbours(CATALOG, titles) == [{"prefix": ["<a_0>"], "num_items": 3, "titles": ["W", "X", "Y"]}]
    assert neighbours(Catalog.from_identifiers({"x": ["<a_0>"], "y": ["<a_1>"]}), ["X", "Y"]) == []


def given_file(path: Path, items: Sequence[str]) -> BuildIdentifiers:
    write_json(path, {item: [f"<a_{n % 5}>", f"<b_{n // 5}>"] for n, item in enumerate(items)})
    return BuildIdentifiers(method="file", file=str(path))


def test_a_file_is_taken_as_it_is_with_its_extra_items(tmp_path: Path) -> None:
    items = ["extra", *films(10)["item_id"][::-1]]
    made = build_identifiers(films(10), [], given_file(tmp_path / "given.json", items))
    assert made.catalog.items == items
    assert made.catalog.identifiers()["extra"] == ["<a_0>", "<b_0>"]
    assert made.codebooks is None
    assert made.report["quantization_error"] is None
    assert made.report["prefixes_by_depth"] == [5, 11]


def test_a_file_without_some_items_names_them(tmp_path: Path) -> None:
    given = given_file(tmp_path / "given.json", ["i0", "i2"])
    with pytest.raises(UserError, match=r"8 of the data set's 10 items .*\(i1, i3, i4, i5, i6, \.\.\.\)"):
        build_identifiers(films(10), [], given)


def test_a_file_with_collisions_needs_them_allowed(tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    write_json(path, {"i0": ["<a_0>"], "i1": ["<a_0>"], "i2": ["<a_1>"]})
    given = BuildIdentifiers(method="file", file=str(path))
    with pytest.raises(UserError, match=r"2 items share an identifier.*collisions: allow"):
        build_identifiers(films(3), [], given)
    made = build_identifiers(films(3), [], given.model_copy(update={"collisions": "allow"}))
    assert made.report["collisions"] == {"items_before": 2, "items_after": 2, "items_moved": 0}
