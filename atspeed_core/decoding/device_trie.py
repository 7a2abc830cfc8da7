"""The item trie on the device: looking up children, codes, depths and ancestors of batches of nodes.

Flat arrays, as in `identifiers.trie`. Nodes are numbered breadth-first and children stand side by side, so one array
of first children (CSR) gives their counts too, and leaves need no entry in it. Every lookup is a few gathers of fixed
shape: no vocabulary-wide mask, no Python callback, no wait for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.identifiers.trie import Trie

NO_NODE = -1
NEVER_A_NODE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class DeviceTrie:
    """A `Trie` as tensors, optionally narrowed to some of its nodes.

    Node 0 is the root, and -1 (`NO_NODE`) stands for no node wherever nodes are given or returned. Lookups return
    int64.

    Attributes:
        first_child: [inner nodes + 1] int32 (int64 beyond two billion nodes); the children of node n are
            first_child[n] : first_child[n + 1]. The last entry is the number of nodes.
        parent: [nodes] int32 (or int64); NO_NODE for the root.
        edge_code: [nodes] int16 where all codes fit, else int32: code on the edge into a node; read it with `codes`.
        depth_start: [levels + 2] node range of depth d is depth_start[d] : depth_start[d + 1].
        level_start: [levels] int64, depth_start[1], ..., depth_start[levels] on the device.
        max_children_at: most children of any node at depth 0, 1, ..., levels - 1.
        allowed: [nodes] bool, or None for the whole trie.
        excluded: [B, E] int64 nodes, ascending, that each request of a batch must not reach; or None.
    """

    first_child: Tensor
    parent: Tensor
    edge_code: Tensor
    depth_start: tuple[int, ...]
    level_start: Tensor
    max_children_at: tuple[int, ...]
    allowed: Tensor | None = None
    excluded: Tensor | None = None

    @classmethod
    def build(cls, trie: Trie, device: torch.device | str = "cpu") -> "DeviceTrie":
        """Copy `trie` to `device`; on the CPU its arrays are shared where the types allow."""
        starts = [int(start) for start in trie.depth_start]
        small = int(trie.token.max()) <= np.iinfo(np.int16).max
        return cls(
            first_child=torch.from_numpy(trie.first_child).to(device),
            parent=torch.from_numpy(trie.parent).to(device),
            edge_code=torch.from_numpy(trie.token).to(device, torch.int16 if small else torch.int32),
            depth_start=tuple(starts),
            level_start=torch.tensor(starts[1:-1], device=device),
            max_children_at=tuple(int(trie.children_counts(depth).max()) for depth in range(trie.num_levels)),
        )

    @property
    def device(self) -> torch.device:
        """Where the arrays are."""
        return self.parent.device

    @property
    def num_levels(self) -> int:
        """Length of an identifier."""
        return len(self.max_children_at)

    @property
    def num_nodes(self) -> int:
        """Number of prefixes, the empty one included."""
        return self.depth_start[-1]

    @property
    def first_leaf(self) -> int:
        """The first node of depth `num_levels`."""
        return self.depth_start[self.num_levels]

    @property
    def max_children(self) -> int:
        """Most children of any node."""
        return max(self.max_children_at)

    def children(self, nodes: Tensor, depth: int | None = None) -> Tensor:
        """[..., M] children of `nodes` [...] in ascending order of code; NO_NODE fills up.

        The children of NO_NODE and of leaves are all NO_NODE, and so are those outside `allowed` and those
        `excluded`, for which the first dimension of `nodes` must be the batch.

        Args:
            nodes: int64 nodes.
            depth: depth of all nodes that are not NO_NODE, 0 .. levels - 1, if they share one; M is then
                `max_children_at[depth]`, else `max_children`.
        """
        return self._children(nodes, self.max_children if depth is None else self.max_children_at[depth])

    def has_children(self, nodes: Tensor) -> Tensor:
        """[..., M] bool: in which columns `children` has a child of `nodes` [...]; all of their depths may differ."""
        if self.allowed is not None or self.excluded is not None:
            return self.children(nodes) >= 0
        start, end = self._span(nodes)
        return torch.arange(self.max_children, device=nodes.device) < (end - start).unsqueeze(-1)

    def descendants(self, nodes: Tensor, limit: int, min_depth: int = 0) -> Tensor:
        """[B, limit] the inner nodes strictly below `nodes` [B, n], breadth-first; NO_NODE fills up.

        First the children of all nodes, in the order of `nodes`, then the grandchildren, ... Leaves are no inner
        nodes. What does not fit into `limit` is left out, the deepest first; a node that is in has all its
        ancestors below the given node in as well. `allowed` and `excluded` hold as for `children`.

        Args:
            nodes: int64 nodes of any depths, NO_NODE allowed; in a row distinct and none below another, else
                what is below both comes twice.
            limit: columns of the result.
            min_depth: a depth that none of `nodes` lies above; the deeper, the less work.
        """
        found, generation = [nodes[:, :0]], nodes
        for shallowest in range(min_depth, self.num_levels - 1):
            children = self._children(generation, max(self.max_children_at[shallowest:-1])).flatten(1)
            generation = _first(children, (children >= 0) & (children < self.first_leaf), limit)
            found.append(generation)
        together = torch.cat(found, dim=1)
        return _first(together, together >= 0, limit)

    def num_below(self, nodes: Tensor) -> Tensor:
        """[...] number of inner nodes strictly below `nodes` [...], whatever `allowed` and `excluded` say."""
        start, end = nodes.clamp(min=0), torch.where(nodes >= 0, nodes + 1, 0)
        total = torch.zeros_like(nodes)
        for _ in range(self.num_levels - 1):  # the descendants of one generation stand side by side
            start, end = (self.first_child[place.clamp(max=self.first_leaf)].long() for place in (start, end))
            total += end.clamp(max=self.first_leaf) - start.clamp(max=self.first_leaf)
        return total.clamp(min=0)

    def codes(self, nodes: Tensor) -> Tensor:
        """[...] code on the edge into each of `nodes` [...]; for the root and NO_NODE some valid code."""
        return self.edge_code[nodes.clamp(min=1)].long()

    def parents(self, nodes: Tensor) -> Tensor:
        """[...] parents of `nodes` [...]; NO_NODE for the root and NO_NODE."""
        return self.parent[nodes.clamp(min=0)].long()

    def depth_of(self, nodes: Tensor) -> Tensor:
        """[...] depths of `nodes` [...]; 0 for the root and NO_NODE."""
        return torch.bucketize(nodes.contiguous(), self.level_start, right=True)

    def ancestors(self, nodes: Tensor) -> Tensor:
        """[..., num_levels] the node itself, its parent, ... without the root; NO_NODE fills up."""
        chain = []
        for _ in range(self.num_levels):
            chain.append(torch.where(nodes > 0, nodes, NO_NODE))
            nodes = self.parents(nodes)
        return torch.stack(chain, dim=-1)

    def narrowed(self, allowed: NDArray[np.bool_]) -> "DeviceTrie":
        """This trie without the nodes that are False in `allowed` [nodes]; nothing is rebuilt."""
        return replace(self, allowed=torch.from_numpy(allowed).to(self.device))

    def excluding(self, nodes: Sequence[NDArray[np.int64]]) -> "DeviceTrie":
        """This trie without `nodes`, ascending, a different set for each request of a batch."""
        width = max(map(len, nodes))
        rows = np.full((len(nodes), width), NEVER_A_NODE)
        for row, excluded in zip(rows, nodes, strict=True):
            row[: len(excluded)] = excluded
        return replace(self, excluded=torch.from_numpy(rows).to(self.device))

    def bucketed(self, columns: int) -> "DeviceTrie":
        """This trie with `excluded` filled up to a multiple of `columns`."""
        if self.excluded is None:
            return self
        batch, width = self.excluded.shape
        filling = self.excluded.new_full((batch, -width % columns), NEVER_A_NODE)
        return replace(self, excluded=torch.cat([self.excluded, filling], dim=1))

    def select(self, rows: Tensor) -> "DeviceTrie":
        """The trie for the requests `rows` of the batch."""
        return self if self.excluded is None else replace(self, excluded=self.excluded[rows])

    def _children(self, nodes: Tensor, width: int) -> Tensor:
        start, end = self._span(nodes)
        children = start.unsqueeze(-1) + torch.arange(width, device=nodes.device)
        valid = children < end.unsqueeze(-1)
        if self.allowed is not None:
            valid = valid & self.allowed[children.clamp(max=self.num_nodes - 1)]
        if self.excluded is not None and self.excluded.shape[1]:
            valid = valid & ~self._is_excluded(children)
        return torch.where(valid, children, NO_NODE)

    def _span(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The first child of each of `nodes` [...] and the node after the last; equal for leaves and for NO_NODE."""
        return self.first_child[nodes.clamp(0, self.first_leaf)], self.first_child[
            (nodes + 1).clamp(max=self.first_leaf)
        ]

    def _is_excluded(self, nodes: Tensor) -> Tensor:
        assert self.excluded is not None
        flat = nodes.flatten(1)
        places = torch.searchsorted(self.excluded, flat).clamp(max=self.excluded.shape[1] - 1)
        return (self.excluded.gather(1, places) == flat).view_as(nodes)


def _first(nodes: Tensor, chosen: Tensor, limit: int) -> Tensor:
    """[B, limit] the first of `nodes` [B, n] where `chosen` [B, n] is True, in their order; NO_NODE fills up."""
    place = chosen.cumsum(1) - 1
    place = torch.where(chosen & (place < limit), place, limit)  # the others go into a column that is cut off
    kept = nodes.new_full((len(nodes), limit + 1), NO_NODE)
    return kept.scatter_(1, place, nodes)[:, :limit]
