"""Resolving collisions: unique afterwards, and no item moves without need or further than needed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.errors import UserError
from atspeed_core.identifiers.collisions import colliding_items, resolve_collisions
from atspeed_core.identifiers.quantization import Quantization, quantize_with


def quantization(num_items: int, num_levels: int, width: int, seed: int) -> Quantization:
    rng = np.random.default_rng(seed)
    scales = 0.5 ** np.arange(num_levels)[:, None, None]
    codebooks = (rng.normal(size=(num_levels, width, 2)) * scales).astype(np.float32)
    return quantize_with(rng.normal(size=(num_items, 2)).astype(np.float32), codebooks)


sizes = st.tuples(st.integers(1, 3), st.integers(2, 4)).flatmap(
    lambda shape: st.tuples(st.integers(1, shape[1] ** shape[0]), st.just(shape[0]), st.just(shape[1]))
)


@given(sizes, st.integers(0, 1000))
def test_identifiers_are_unique_as_long_as_there_are_enough(size: tuple[int, int, int], seed: int) -> None:
    made = quantization(*size, seed)
    codes = resolve_collisions(made)
    assert len(np.unique(codes, axis=0)) == len(codes)
    assert codes.min() >= 0
    assert codes.max() < made.width


@given(sizes, st.integers(0, 1000))
def test_items_that_collide_with_none_keep_their_codes(size: tuple[int, int, int], seed: int) -> None:
    made = quantization(*size, seed)
    alone = np.setdiff1d(np.arange(len(made.codes)), colliding_items(made.codes))
    np.testing.assert_array_equal(resolve_collisions(made)[alone], made.codes[alone])


@given(sizes, st.integers(0, 1000))
def test_prefixes_change_only_where_a_family_is_full(size: tuple[int, int, int], seed: int) -> None:
    made = quantization(*size, seed)
    moved = (resolve_collisions(made)[:, :-1] != made.codes[:, :-1]).any(axis=1)
    for item in np.flatnonzero(moved):
        family = (made.codes[:, :-1] == made.codes[item, :-1]).all(axis=1)
        assert family.sum() > made.width


def test_colliding_items_take_the_nearest_free_codes() -> None:
    codebooks = np.array([[[0.0]], [[0.0]]], dtype=np.float32).repeat(4, axis=1)
    codebooks[1, :, 0] = [0.0, 1.0, 2.0, 9.0]
    vectors = np.array([[0.0], [0.4], [1.0]], dtype=np.float32)
    codes = np.array([[0, 0], [0, 0], [0, 1]])
    resolved = resolve_collisions(Quantization(vectors, codebooks, codes))
    assert resolved.tolist() == [[0, 0], [0, 2], [0, 1]]


def test_a_family_larger_than_the_width_spills_to_the_nearest_branch() -> None:
    codebooks = np.zeros((2, 2, 1), dtype=np.float32)
    codebooks[0, :, 0] = [0.0, 10.0]
    vectors = np.zeros((4, 1), dtype=np.float32)
    made = Quantization(vectors, codebooks, np.zeros((4, 2), dtype=np.int64))
    assert sorted(map(tuple, resolve_collisions(made).tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_spilling_prefers_a_sibling_to_a_distant_relative() -> None:
    codebooks = np.zeros((3, 2, 1), dtype=np.float32)
    codebooks[0, :, 0] = [0.0, 0.1]  # the items' vectors are nearer to the other first code than to their own
    codebooks[1, :, 0] = [0.0, 5.0]
    codes = np.array([[1, 0, 0]] * 3)
    resolved = resolve_collisions(Quantization(np.zeros((3, 1), dtype=np.float32), codebooks, codes))
    assert sorted(row[:2] for row in resolved.tolist()) == [[1, 0], [1, 0], [1, 1]]


def test_too_many_items_name_the_settings_to_raise() -> None:
    made = quantization(5, 2, 2, seed=0)
    with pytest.raises(UserError, match=r"5 items do not fit into 2 \*\* 2 .* raise 'codebook_width' or 'num_levels'"):
        resolve_collisions(made)
