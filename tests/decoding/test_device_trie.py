"""The trie on the device against the prefixes themselves, on random identifiers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.identifiers.trie import build_trie
from tests.tiny_models import make_catalog

LEVELS = 3
identifiers = st.lists(st.tuples(*[st.integers(0, 4)] * LEVELS), min_size=1, max_size=30)

Prefix = tuple[int, ...]


class Naive:
    """Prefixes in the order of their nodes, and what lies below each."""

    def __init__(self, codes: list[Prefix]) -> None:
        prefixes = {row[:depth] for row in codes for depth in range(LEVELS + 1)}
        self.prefixes = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
        self.children = [
            [c for c, child in enumerate(self.prefixes) if child and child[:-1] == prefix] for prefix in self.prefixes
        ]

    def inner_below(self, nodes: list[int], unreachable: set[int]) -> list[int]:
        """Inner nodes below `nodes`, generation by generation, not reached through `unreachable`."""
        found, generation = [], nodes
        while generation:
            children = [c for node in generation if node != NO_NODE for c in self.children[node]]
            generation = [c for c in children if len(self.prefixes[c]) < LEVELS and c not in unreachable]
            found += generation
        return found


def build(codes: list[Prefix]) -> tuple[DeviceTrie, Naive]:
    return DeviceTrie.build(build_trie(np.array(codes))), Naive(codes)


def without_padding(row: torch.Tensor) -> list[int]:
    return [node for node in row.tolist() if node != NO_NODE]


@given(identifiers)
def test_lookups_know_code_parent_and_depth_of_every_prefix(codes):
    trie, naive = build(codes)
    nodes = torch.arange(trie.num_nodes)
    chain = trie.ancestors(nodes).tolist()
    for node, prefix in enumerate(naive.prefixes):
        assert trie.depth_of(nodes)[node] == len(prefix)
        assert trie.parents(nodes)[node] == (naive.prefixes.index(prefix[:-1]) if prefix else NO_NODE)
        assert not prefix or trie.codes(nodes)[node] == prefix[-1]
        above = [naive.prefixes.index(prefix[:depth]) for depth in range(len(prefix), 0, -1)]
        assert chain[node] == above + [NO_NODE] * (LEVELS - len(above))


@given(identifiers)
def test_children_are_the_prefixes_one_longer_in_order_of_code(codes):
    trie, naive = build(codes)
    children = trie.children(torch.arange(trie.num_nodes))
    assert children.shape == (trie.num_nodes, trie.max_children)
    assert [without_padding(row) for row in children] == naive.children
    nodes = torch.tensor([NO_NODE, *range(trie.num_nodes)])
    assert torch.equal(trie.has_children(nodes), trie.children(nodes) != NO_NODE)


@given(identifiers)
def test_children_of_one_depth_need_only_its_width(codes):
    trie, naive = build(codes)
    for depth in range(LEVELS):
        start, end = trie.depth_start[depth : depth + 2]
        nodes = torch.cat([torch.arange(start, end), torch.tensor([NO_NODE])])
        children = trie.children(nodes, depth)
        assert children.shape[1] == max(map(len, naive.children[start:end]))
        assert [without_padding(row) for row in children] == [*naive.children[start:end], []]


@given(identifiers, st.data())
def test_children_outside_the_allowed_are_left_out(codes, data):
    trie, naive = build(codes)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=trie.num_nodes, max_size=trie.num_nodes)))
    narrowed = trie.narrowed(allowed).children(torch.arange(trie.num_nodes))
    assert [without_padding(row) for row in narrowed] == [[c for c in row if allowed[c]] for row in naive.children]


def drawn_exclusions(data: st.DataObject, trie: DeviceTrie, batch: int) -> list[list[int]]:
    nodes = st.lists(st.integers(1, trie.num_nodes - 1), unique=True).map(sorted)
    return [data.draw(nodes) for _ in range(batch)]


@given(identifiers, st.data())
def test_children_excluded_by_a_request_are_left_out_for_it_alone(codes, data):
    trie, naive = build(codes)
    excluded = drawn_exclusions(data, trie, batch=3)
    excluding = trie.excluding([np.array(row, dtype=np.int64) for row in excluded])
    nodes = torch.arange(trie.num_nodes).expand(3, -1)
    for rows in ([0, 1, 2], [2, 0]):
        chosen = torch.tensor(rows)
        children = excluding.select(chosen).children(nodes[chosen])
        for request, row in zip(rows, children, strict=True):
            expected = [[c for c in found if c not in excluded[request]] for found in naive.children]
            assert [without_padding(found) for found in row] == expected


@given(identifiers, st.data())
def test_descendants_are_the_inner_nodes_below_generation_by_generation(codes, data):
    trie, naive = build(codes)
    limit = data.draw(st.integers(0, 12))
    nodes = st.lists(st.integers(NO_NODE, trie.num_nodes - 1), min_size=4, max_size=4, unique=True)
    given_nodes = data.draw(st.lists(nodes, min_size=2, max_size=2))
    excluded = drawn_exclusions(data, trie, batch=2)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=trie.num_nodes, max_size=trie.num_nodes)))
    trie = trie.excluding([np.array(row, dtype=np.int64) for row in excluded]).narrowed(allowed)
    min_depth = min(len(naive.prefixes[n]) for row in given_nodes for n in row if n != NO_NODE)
    found = trie.descendants(torch.tensor(given_nodes), limit, min_depth=data.draw(st.integers(0, min_depth)))
    for row, below, without in zip(found.tolist(), given_nodes, excluded, strict=True):
        expected = naive.inner_below(below, {*without, *np.flatnonzero(~allowed).tolist()})[:limit]
        assert row == expected + [NO_NODE] * (limit - len(expected))


def test_no_node_has_no_relations():
    trie, _ = build([(0, 0, 1), (0, 1, 0)])
    nothing = torch.tensor([[NO_NODE]])
    for relation in (trie.children(nothing), trie.parents(nothing), trie.ancestors(nothing)):
        assert (relation == NO_NODE).all()
    assert (trie.descendants(nothing, 3) == NO_NODE).all()
    assert trie.depth_of(nothing).item() == 0


@pytest.mark.parametrize(("largest", "dtype"), [(2**15 - 1, torch.int16), (2**15, torch.int32)])
def test_large_codes_survive(largest, dtype):
    trie, _ = build([(0, 5, largest), (0, 5, 7)])
    assert trie.edge_code.dtype == dtype
    codes = trie.codes(torch.arange(trie.num_nodes))
    assert codes.dtype == torch.int64
    assert codes[-2:].tolist() == [7, largest]


def test_lookups_never_wait_for_the_device():
    """On the meta device a shape or a branch that depends on values is an error."""
    trie = DeviceTrie.build(build_trie(np.array([(0, 0, 1), (0, 1, 0), (1, 1, 1)])), "meta")
    trie = trie.narrowed(np.ones(trie.num_nodes, dtype=bool)).excluding([np.array([3]), np.array([1, 2])])
    nodes = torch.zeros(2, 5, dtype=torch.long, device="meta")
    assert trie.children(nodes).shape == (2, 5, 2)
    assert trie.children(nodes, depth=2).shape == (2, 5, 1)
    assert trie.descendants(nodes, limit=7).shape == (2, 7)
    assert trie.ancestors(nodes).shape == (2, 5, LEVELS)
    for lookup in (trie.codes, trie.parents, trie.depth_of):
        assert lookup(nodes).shape == (2, 5)


def test_inner_nodes_below_are_counted() -> None:
    catalog = make_catalog([(0, 0, 0), (0, 1, 0), (0, 1, 1), (2, 0, 0)])
    trie = DeviceTrie.build(catalog.trie)
    nodes = torch.arange(-1, trie.num_nodes)
    expected = [int((trie.descendants(node.view(1, 1), 20) >= 0).sum()) if node >= 0 else 0 for node in nodes]
    assert trie.num_below(nodes).tolist() == expected
    assert expected[1:4] == [5, 2, 1]
