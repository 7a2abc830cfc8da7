"""The beams of a batch of requests, each request at its own depth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from atspeed_core.decoding.device_trie import NO_NODE


@dataclass(frozen=True)
class Beams:
    """The K best prefixes of each request.

    Attributes:
        nodes: [B, K] int64 trie nodes, best first; NO_NODE where a request has fewer than K.
        scores: [B, K] float32 cumulative log-probabilities; -inf for NO_NODE.
        depth: [B] int64 depth of a request's nodes.
        margin: [B] float32 smallest gap, over the levels so far, between the worst beam and the best that was left out.
    """

    nodes: Tensor
    scores: Tensor
    depth: Tensor
    margin: Tensor

    @classmethod
    def at_root(cls, batch: int, k: int, device: torch.device) -> "Beams":
        """Every request with the empty prefix alone."""
        nodes = torch.full((batch, k), NO_NODE, device=device)
        scores = torch.full((batch, k), -torch.inf, device=device)
        nodes[:, 0], scores[:, 0] = 0, 0.0
        undecided = torch.full((batch,), torch.inf, device=device)
        return cls(nodes, scores, torch.zeros(batch, dtype=torch.long, device=device), undecided)

    def select(self, rows: Tensor) -> "Beams":
        """Only the requests `rows`."""
        return Beams(self.nodes[rows], self.scores[rows], self.depth[rows], self.margin[rows])

    def replaced(self, rows: Tensor, other: "Beams") -> "Beams":
        """`other` where `rows` [B] bool is True, else these."""
        wide = rows.unsqueeze(-1)
        return Beams(
            torch.where(wide, other.nodes, self.nodes),
            torch.where(wide, other.scores, self.scores),
            torch.where(rows, other.depth, self.depth),
            torch.where(rows, other.margin, self.margin),
        )


def extended(beams: Beams, candidates: Tensor, scores: Tensor, chosen: Tensor) -> Beams:
    """One level on: the `chosen` [B, K] of `candidates` [B, n] with their `scores` [B, n]; -inf becomes NO_NODE."""
    kept = scores.gather(1, chosen)
    nodes = candidates.gather(1, chosen).masked_fill(kept == -torch.inf, NO_NODE)
    return Beams(nodes, kept, beams.depth + 1, beams.margin)
