import torch
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from tests.tiny_models import make_catalog

identifiers = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=30)


def paths(trie: DeviceTrie) -> dict[int, tuple[int, ...]]:
    """Codes on the way to every node, read from its ancestors."""
    chain = trie.ancestors(torch.arange(len(trie.token)))
    return {n: tuple(int(trie.token[a]) for a in reversed(row) if a > 0) for n, row in enumerate(chain.tolist())}


@given(identifiers)
def test_children_are_the_prefixes_one_longer_in_order_of_code(codes):
    catalog = make_catalog(codes)
    trie = DeviceTrie.build(catalog.trie)
    path = paths(trie)
    prefixes = {tuple(row[:depth]) for row in catalog.codes.tolist() for depth in range(4)}
    assert sorted(path.values()) == sorted(prefixes)
    children = trie.children(torch.arange(len(trie.token)))
    for node, row in enumerate(children.tolist()):
        expected = sorted(p for p in prefixes if len(p) == len(path[node]) + 1 and p[:-1] == path[node])
        assert [path[c] for c in row if c != NO_NODE] == expected
        assert int(trie.depth[node]) == len(path[node])


def test_no_node_has_neither_children_nor_ancestors():
    trie = DeviceTrie.build(make_catalog([(0, 0), (0, 1)]).trie)
    nothing = torch.tensor([NO_NODE])
    assert (trie.children(nothing) == NO_NODE).all()
    assert (trie.ancestors(nothing) == NO_NODE).all()
