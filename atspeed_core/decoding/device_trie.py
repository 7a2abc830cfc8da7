"""The item trie on the device: looking up children, depths and ancestors of batches of nodes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.identifiers.trie import Trie

NO_NODE = -1


@dataclass(frozen=True)
class DeviceTrie:
    """A `Trie` as tensors, optionally narrowed to some of its nodes.

    Attributes:
        token: [nodes] int64 code on the edge into a node.
        parent: [nodes] int64.
        first_child: [nodes] int64.
        num_children: [nodes] int64.
        depth: [nodes] int64, 0 for the root.
        allowed: [nodes] bool, or None for the whole trie.
        excluded: [B, E] int64 nodes, ascending, that each request of a batch must not reach; or None.
        max_children: most children of any node.
        num_levels: length of an identifier.
    """

    token: Tensor
    parent: Tensor
    first_child: Tensor
    num_children: Tensor
    depth: Tensor
    allowed: Tensor | None
    excluded: Tensor | None
    max_children: int
    num_levels: int

    @classmethod
    def build(cls, trie: Trie, device: torch.device | str = "cpu") -> "DeviceTrie":
        """Copy `trie` to `device`."""
        sizes = torch.from_numpy(trie.depth_start).diff()
        return cls(
            token=torch.from_numpy(trie.token).to(device),
            parent=torch.from_numpy(trie.parent).to(device),
            first_child=torch.from_numpy(trie.first_child).to(device),
            num_children=torch.from_numpy(trie.num_children).to(device),
            depth=torch.repeat_interleave(torch.arange(trie.num_levels + 1), sizes).to(device),
            allowed=None,
            excluded=None,
            max_children=int(trie.num_children.max()),
            num_levels=trie.num_levels,
        )

    def children(self, nodes: Tensor) -> Tensor:
        """[..., max_children] children of `nodes` [...] in ascending order of code; NO_NODE fills up.

        The children of NO_NODE are all NO_NODE, and so are those outside `allowed` and those `excluded`, for which
        the first dimension of `nodes` must be the batch.
        """
        offsets = torch.arange(self.max_children, device=nodes.device)
        known = nodes.clamp(min=0)
        children = self.first_child[known].unsqueeze(-1) + offsets
        valid = (offsets < self.num_children[known].unsqueeze(-1)) & (nodes >= 0).unsqueeze(-1)
        if self.allowed is not None:
            valid = valid & self.allowed[children.clamp(max=len(self.token) - 1)]
        if self.excluded is not None and self.excluded.shape[1]:
            flat = children.flatten(1)
            places = torch.searchsorted(self.excluded, flat).clamp(max=self.excluded.shape[1] - 1)
            valid = valid & (self.excluded.gather(1, places) != flat).view_as(children)
        return torch.where(valid, children, NO_NODE)

    def excluding(self, nodes: Sequence[NDArray[np.int64]]) -> "DeviceTrie":
        """This trie without `nodes`, ascending, a different set for each request of a batch."""
        width = max(map(len, nodes))
        rows = np.full((len(nodes), width), np.iinfo(np.int64).max)
        for row, excluded in zip(rows, nodes, strict=True):
            row[: len(excluded)] = excluded
        return replace(self, excluded=torch.from_numpy(rows).to(self.token.device))

    def select(self, rows: Tensor) -> "DeviceTrie":
        """The trie for the requests `rows` of the batch."""
        return self if self.excluded is None else replace(self, excluded=self.excluded[rows])

    def ancestors(self, nodes: Tensor) -> Tensor:
        """[..., num_levels] the node itself, its parent, ... without the root; NO_NODE fills up."""
        chain = []
        for _ in range(self.num_levels):
            nodes = torch.where(nodes > 0, nodes, NO_NODE)
            chain.append(nodes)
            nodes = torch.where(nodes > 0, self.parent[nodes.clamp(min=0)], NO_NODE)
        return torch.stack(chain, dim=-1)
