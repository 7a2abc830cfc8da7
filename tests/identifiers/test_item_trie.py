"""The flat trie against a naive one made of dictionaries, on random identifiers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atspeed_core.identifiers.trie import IntArray, Trie, build_trie

shapes = st.tuples(st.integers(1, 30), st.integers(1, 5))
random_codes = shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(0, 6)))

Prefix = tuple[int, ...]


def naive_prefixes(codes: IntArray) -> dict[Prefix, list[int]]:
    """Every prefix, the empty one included, and the items under it."""
    found: dict[Prefix, list[int]] = {}
    for item, row in enumerate(codes.tolist()):
        for depth in range(len(row) + 1):
            found.setdefault(tuple(row[:depth]), []).append(item)
    return found


def prefix_of(trie: Trie, node: int) -> Prefix:
    """The codes on the way from the root, by parent links alone."""
    path: list[int] = []
    while node > 0:
        path.append(int(trie.token[node]))
        node = int(trie.parent[node])
    return tuple(reversed(path))


def items_of_leaf(trie: Trie, leaf: int) -> list[int]:
    items = trie.leaf_items[trie.first_item[leaf] : trie.first_item[leaf + 1]]
    return [int(item) for item in items]


@given(random_codes)
def test_nodes_are_the_distinct_prefixes(codes: IntArray) -> None:
    trie = build_trie(codes)
    nodes = [prefix_of(trie, node) for node in range(trie.num_nodes)]
    assert len(set(nodes)) == len(nodes)
    assert set(nodes) == set(naive_prefixes(codes))


@given(random_codes)
def test_nodes_are_ordered_by_depth_and_prefix(codes: IntArray) -> None:
    trie = build_trie(codes)
    nodes = [prefix_of(trie, node) for node in range(trie.num_nodes)]
    assert nodes == sorted(nodes, key=lambda prefix: (len(prefix), prefix))
    for depth in range(trie.num_levels + 1):
        start, end = trie.depth_start[depth : depth + 2]
        assert {len(prefix) for prefix in nodes[start:end]} == {depth}
    assert trie.prefixes_by_depth() == [sum(len(p) == d for p in nodes) for d in range(1, trie.num_levels + 1)]


@given(random_codes)
def test_children_stand_side_by_side(codes: IntArray) -> None:
    trie = build_trie(codes)
    prefixes = naive_prefixes(codes)
    assert len(trie.first_child) == trie.first_leaf + 1
    for node in range(trie.first_leaf):
        children = range(trie.first_child[node], trie.first_child[node + 1])
        prefix = prefix_of(trie, node)
        expected = sorted(p for p in prefixes if len(p) == len(prefix) + 1 and p[:-1] == prefix)
        assert [prefix_of(trie, child) for child in children] == expected


@given(random_codes)
def test_leaves_hold_the_items_in_catalog_order(codes: IntArray) -> None:
    trie = build_trie(codes)
    prefixes = naive_prefixes(codes)
    for leaf in range(trie.num_leaves):
        assert items_of_leaf(trie, leaf) == prefixes[prefix_of(trie, trie.first_leaf + leaf)]


@given(random_codes, st.data())
def test_ancestors_of_items_are_their_prefixes(codes: IntArray, data: st.DataObject) -> None:
    trie = build_trie(codes)
    chosen = data.draw(st.lists(st.integers(0, len(codes) - 1), max_size=5))
    marked = trie.ancestors_of_items(np.array(chosen, dtype=np.int64))
    prefixes = naive_prefixes(codes)
    for node in range(trie.num_nodes):
        prefix = prefix_of(trie, node)
        assert marked[node] == (prefix == () or bool(set(prefixes[prefix]) & set(chosen)))


@given(random_codes, st.data())
def test_exhausted_nodes_have_no_other_items(codes: IntArray, data: st.DataObject) -> None:
    trie = build_trie(codes)
    items = data.draw(st.lists(st.integers(0, len(codes) - 1)))
    exhausted = trie.exhausted_by(np.array(items, dtype=np.int64)).tolist()
    under = naive_prefixes(codes)
    expected = [n for n in range(trie.num_nodes) if set(under[prefix_of(trie, n)]) <= set(items)]
    assert exhausted == expected


@pytest.mark.parametrize(
    ("codes", "prefixes_by_depth", "most_children"),
    [
        (np.zeros((1, 4), dtype=np.int64), [1, 1, 1, 1], 1),
        (np.arange(3)[:, None].repeat(60, axis=1), [3] * 60, 3),  # deep chains
        (np.arange(5000)[::-1, None].copy(), [5000], 5000),  # one huge node
        (np.full((7, 3), 2), [1, 1, 1], 1),  # all items collide
        (np.array([[5, 2**62, 7], [5, 0, 2**62]]), [1, 2, 2], 2),  # codes of many bits
        (np.array([[0, 200], [255, 3]], dtype=np.uint8), [2, 2], 2),  # of few
    ],
)
def test_extreme_shapes(codes: IntArray, prefixes_by_depth: list[int], most_children: int) -> None:
    trie = build_trie(codes)
    assert trie.prefixes_by_depth() == prefixes_by_depth
    assert max(trie.children_counts(depth).max() for depth in range(trie.num_levels)) == most_children
    assert sorted(trie.leaf_items.tolist()) == list(range(len(codes)))


def test_a_million_items() -> None:
    codes = np.random.default_rng(0).integers(0, 256, size=(1_000_000, 4))
    trie = build_trie(codes)
    assert trie.prefixes_by_depth()[:2] == [256, 65536]
    leaf = np.repeat(np.arange(trie.num_leaves), np.diff(trie.first_item))
    np.testing.assert_array_equal(trie.token[trie.first_leaf + leaf], codes[trie.leaf_items, -1])
