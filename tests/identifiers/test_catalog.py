"""The catalog: what is read is what is written, and bad files are explained in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from atspeed_core.errors import UserError
from atspeed_core.identifiers.catalog import Catalog, code_token, load_code_vectors

SHARED = Path(__file__).resolve().parents[3] / "shared"

identifiers_of_three_levels = st.dictionaries(
    st.text(max_size=5),
    st.tuples(*[st.integers(0, 20)] * 3).map(lambda row: [code_token(level, code) for level, code in enumerate(row)]),
    min_size=1,
)


def test_code_vectors_are_the_codebooks_rows(tmp_path: Path) -> None:
    books = {f"codebook_{level}": np.arange(6, dtype=np.float32).reshape(3, 2) + 10 * level for level in (1, 2)}
    (tmp_path / "codebooks.safetensors").write_bytes(save(books))
    vectors = load_code_vectors(tmp_path / "codebooks.safetensors", ["<a_2>", "<b_0>"])
    assert vectors is not None
    assert vectors.tolist() == [[14, 15], [20, 21]]


def test_identifiers_of_a_file_have_no_code_vectors(tmp_path: Path) -> None:
    (tmp_path / "codebooks.safetensors").write_bytes(save({}))
    assert load_code_vectors(tmp_path / "codebooks.safetensors", ["<a_0>"]) is None


@pytest.mark.parametrize("content", [None, b""])
def test_missing_codebooks_are_explained(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "codebooks.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"codebooks\.safetensors: cannot be read"):
        load_code_vectors(path, ["<a_0>"])


@given(identifiers_of_three_levels)
def test_identifiers_round_trip_in_order(identifiers: dict[str, list[str]]) -> None:
    catalog = Catalog.from_identifiers(identifiers)
    assert catalog.identifiers() == identifiers
    assert catalog.items == list(identifiers)


def test_save_and_load(tmp_path: Path) -> None:
    catalog = Catalog.from_identifiers({"ö": ["<a_1>", "<b_0>"], "x": ["<a_0>", "<b_0>"]})
    catalog.save(tmp_path / "identifiers.json")
    loaded = Catalog.load(tmp_path / "identifiers.json")
    assert loaded.items == ["ö", "x"]
    assert loaded.code_tokens == catalog.code_tokens
    np.testing.assert_array_equal(loaded.codes, catalog.codes)


def test_code_tokens_are_ordered_by_level_then_number() -> None:
    catalog = Catalog.from_identifiers({"x": ["<a_10>", "<b_1>"], "y": ["<a_9>", "<b_2>"]})
    assert catalog.code_tokens == ["<a_9>", "<a_10>", "<b_1>", "<b_2>"]
    assert catalog.codes.tolist() == [[1, 2], [0, 3]]


def test_duplicates_share_a_leaf_and_are_counted() -> None:
    catalog = Catalog.from_identifiers({"x": ["<a_0>"], "y": ["<a_1>"], "z": ["<a_0>"], "w": ["<a_0>"]})
    assert catalog.num_collisions() == 3
    assert catalog.trie.num_leaves == 2
    assert catalog.trie.leaf_items[: catalog.trie.first_item[1]].tolist() == [0, 2, 3]


def test_positions_of_leaves_out_unknown_items() -> None:
    catalog = Catalog.from_identifiers({"x": ["<a_0>"], "y": ["<a_1>"]})
    assert catalog.positions_of(["y", "unknown", "x", "y"]).tolist() == [1, 0, 1]
    assert catalog.positions_of([]).dtype == np.int64


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "not a valid identifiers file"),
        ("[]", "non-empty object"),
        ("{}", "non-empty object"),
        ('{"x": "<a_1>"}', "item 'x': expected a list of code tokens"),
        ('{"x": []}', "item 'x': expected a list of code tokens"),
        ('{"x": [1]}', "item 'x': expected a list of code tokens"),
        ('{"x": ["<a_1>"], "y": ["<a_1>", "<b_1>"]}', "item 'y' has 2 codes"),
        ('{"x": ["<a_1>", "<b_1>"], "y": ["<b_1>", "<a_2>"]}', "item 'y': token '<b_1>' stands at level 0 and 1"),
        ('{"x": ["<a_1>"], "y": ["<a_2>"], "x": ["<a_3>"]}', "item 'x' stands 2 times"),
    ],
)
def test_bad_files_are_explained_in_one_line(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "identifiers.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        Catalog.load(path)
    assert what in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such identifiers file"):
        Catalog.load(tmp_path / "absent.json")
    with pytest.raises(UserError, match="no such identifiers file"):
        Catalog.load(tmp_path)
    (tmp_path / "latin.json").write_bytes(json.dumps({"é": ["<a_1>"]}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(UserError, match="not a valid identifiers file"):
        Catalog.load(tmp_path / "latin.json")


def test_published_beauty_identifiers() -> None:
    path = SHARED / "data/atspeed-beauty/beauty.LCRec-1e-3lr.json"
    if not path.exists():
        pytest.skip("the AtSpeed release (../shared/data/atspeed-beauty) is not here")
    catalog = Catalog.load(path)
    assert catalog.trie.prefixes_by_depth() == [91, 6539, 11172, 12023]
    assert catalog.num_collisions() == 21
