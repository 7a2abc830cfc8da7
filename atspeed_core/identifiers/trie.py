"""The item trie as flat arrays: nodes numbered breadth-first, the children of a node side by side."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Trie:
    """Every prefix of every identifier; node 0 is the root, nodes of one depth are contiguous.

    Attributes:
        token: [nodes] code of the edge into each node (index into the catalog's code tokens); -1 for the root.
        parent: [nodes] parent node; -1 for the root.
        first_child: [nodes] first child; children are consecutive, in ascending order of their code.
            A leaf has none, and its entry is the number of nodes.
        num_children: [nodes].
        depth_start: [levels + 2] node range of depth d is depth_start[d] : depth_start[d + 1].
        first_item: [leaves + 1] items of leaf number j are leaf_items[first_item[j] : first_item[j + 1]].
        leaf_items: [items] positions in the catalog, ordered by leaf.
    """

    token: IntArray
    parent: IntArray
    first_child: IntArray
    num_children: IntArray
    depth_start: IntArray
    first_item: IntArray
    leaf_items: IntArray

    @property
    def num_levels(self) -> int:
        """Length of an identifier."""
        return len(self.depth_start) - 2

    @property
    def num_nodes(self) -> int:
        """Number of prefixes, the empty one included."""
        return len(self.token)

    @property
    def first_leaf(self) -> int:
        """Node number of leaf 0."""
        return int(self.depth_start[self.num_levels])

    @property
    def num_leaves(self) -> int:
        """Number of distinct identifiers."""
        return self.num_nodes - self.first_leaf

    def prefixes_by_depth(self) -> list[int]:
        """Number of distinct prefixes at depth 1, 2, ..., L."""
        return [int(n) for n in np.diff(self.depth_start)[1:]]

    @cached_property
    def leaf_of_item(self) -> IntArray:
        """[items] number of the leaf of each item, by place in the catalog."""
        leaves = np.empty(len(self.leaf_items), dtype=np.int64)
        leaves[self.leaf_items] = np.repeat(np.arange(self.num_leaves), np.diff(self.first_item))
        return leaves

    def exhausted_by(self, items: IntArray) -> IntArray:
        """Nodes, ascending, all of whose items are among `items` (places in the catalog)."""
        leaves, counts = np.unique(self.leaf_of_item[np.unique(items)], return_counts=True)
        nodes = self.first_leaf + leaves[counts == np.diff(self.first_item)[leaves]]
        exhausted = [nodes]
        for _ in range(self.num_levels):
            parents, counts = np.unique(self.parent[nodes], return_counts=True)
            nodes = parents[counts == self.num_children[parents]]
            exhausted.append(nodes)
        return np.sort(np.concatenate(exhausted))

    def ancestors_of_items(self, items: IntArray) -> NDArray[np.bool_]:
        """[nodes] True for every prefix of the given items (positions in the catalog) and for the root."""
        chosen = np.zeros(len(self.leaf_items), dtype=bool)
        chosen[items] = True
        marked = np.zeros(self.num_nodes, dtype=bool)
        marked[0] = True  # also where no item is given
        counts = np.add.reduceat(chosen[self.leaf_items].astype(np.int64), self.first_item[:-1])
        nodes = self.first_leaf + np.flatnonzero(counts)
        for _ in range(self.num_levels + 1):
            marked[nodes] = True
            nodes = np.unique(self.parent[nodes])
        return marked


def build_trie(codes: IntArray) -> Trie:
    """Build the trie of `codes` [items, levels] (any non-negative integers)."""
    num_items, num_levels = codes.shape
    order = np.lexsort(codes.T[::-1])  # by first code, then second, ...; equal identifiers keep catalog order
    ranked = codes[order]
    tokens, parents, starts = [np.array([-1])], [np.array([-1])], [0, 1]
    new = np.zeros(num_items, dtype=bool)  # True where a row differs from the one before in codes[:depth]
    new[0] = True
    node = np.zeros(num_items, dtype=np.int64)  # each row's node at the current depth
    for level in range(num_levels):
        new[1:] |= ranked[1:, level] != ranked[:-1, level]
        rows = np.flatnonzero(new)
        tokens.append(ranked[rows, level])
        parents.append(node[rows])
        node = starts[-1] + np.cumsum(new) - 1
        starts.append(starts[-1] + len(rows))
    parent = np.concatenate(parents)
    num_children = np.bincount(parent[1:], minlength=len(parent))
    return Trie(
        token=np.concatenate(tokens),
        parent=parent,
        first_child=1 + np.cumsum(num_children) - num_children,
        num_children=num_children,
        depth_start=np.array(starts),
        first_item=np.append(np.flatnonzero(new), num_items),
        leaf_items=order,
    )
