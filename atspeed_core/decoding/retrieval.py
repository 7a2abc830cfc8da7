"""Retrieval drafting (DARE, arXiv 2408.05676): all valid codes after a prefix are equally probable."""

import torch
from torch import Tensor

from atspeed_core.decoding.device_trie import DeviceTrie

_MULTIPLIER = 1_000_003  # of the number of a history; int64 wraps around


class UniformTree:
    """Behaves as a `ScoredTree` and as a `PrefixModel` of which nothing has to be computed.

    Attributes:
        trie: narrowed to what the requests may be recommended.
        nodes: [B, N] nodes that were asked for, as `ScoredTree` keeps them; slot 0 is the root.
    """

    def __init__(self, trie: DeviceTrie, batch: int) -> None:
        """Start with the root alone."""
        self.trie = trie
        self.nodes = torch.zeros(batch, 1, dtype=torch.long, device=trie.device)

    def score(self, wanted: Tensor) -> None:
        """Take `wanted` [B, W] (NO_NODE allowed) for scored."""
        self.nodes = torch.cat([self.nodes, wanted], dim=1)

    def find(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """See `ScoredTree.find`."""
        found, slots = (nodes.unsqueeze(-1) == self.nodes.unsqueeze(1)).max(-1)
        return slots, found | (nodes < 0)

    def next_log_probs(self, nodes: Tensor, depth: int | None = None) -> tuple[Tensor, Tensor]:
        """Children [B, n, M] of `nodes` [B, n] and their log-probabilities: minus the log of their number."""
        children = self.trie.children(nodes, depth)
        exists = children >= 0
        number = exists.sum(-1, keepdim=True).clamp(min=1)
        return children, torch.where(exists, -number.float().log(), -torch.inf)

    def path_scores(self, nodes: Tensor) -> Tensor:
        """[B, n] sum of the log-probabilities along the paths to `nodes` [B, n]."""
        total = torch.zeros(nodes.shape, device=nodes.device)
        for node in self.trie.ancestors(nodes).unbind(-1):
            step = self.next_log_probs(self.trie.parents(node))[1].amax(-1)
            total += torch.where(node > 0, step, 0.0)
        return total

    def select(self, rows: Tensor) -> None:
        """Keep only the requests `rows`."""
        self.trie, self.nodes = self.trie.select(rows), self.nodes[rows]


def history_numbers(items: Tensor) -> Tensor:
    """[B] int64 a number for each of the histories `items` [B, H] (-1 on the left), whatever batch it stands in."""
    numbers = torch.zeros_like(items[:, 0])
    for item in items.unbind(1):
        numbers = torch.where(item >= 0, numbers * _MULTIPLIER + item + 1, numbers)
    return numbers
