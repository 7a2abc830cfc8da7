"""Speculative top-K search: draft, score the tree in one target call, verify level by level, repeat.

AtSpeed (arXiv 2410.05165), section 3. With a drafter that proposes nothing the same loop is plain constrained beam
search. What was scored stays: a round that ends early is repaired by scoring the missing beams, not started again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from atspeed_core.decoding.beams import Beams
from atspeed_core.decoding.drafters import Drafter
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.verification import Verification


@dataclass(frozen=True)
class SearchResult:
    """The lists of a batch.

    Attributes:
        leaves: [B, K] int64 trie nodes of whole identifiers, best first; NO_NODE where fewer than K exist.
        scores: [B, K] float32 log-probabilities.
        accepted_steps: [B] int64 drafted steps accepted (AS), 0 .. L - 1.
        target_calls: [B] int64 forward passes of the target that a request took part in.
        beams: [B, L - 1, K] int64 verified beams of the depths 1 .. L - 1.
        margin: [B] float32 smallest gap of scores that decided the list: which beams stayed, and their final order.
    """

    leaves: Tensor
    scores: Tensor
    accepted_steps: Tensor
    target_calls: Tensor
    beams: Tensor
    margin: Tensor


@torch.inference_mode()
def search(target: ScoredTree, drafter: Drafter, verification: Verification, k: int) -> SearchResult:
    """Search the `k` best identifiers for every request of `target`.

    1. The drafter proposes nodes below the current beams.
    2. The target scores beams and proposed nodes in one forward pass, under tree attention.
    3. The beams advance as long as all of them are scored; a drafted step is accepted if its K beams were drafted.
    4. Requests that reached the last level leave the batch; the others start the next round. (The last ones stay, so
       that a caller can read their scores from `target`.)
    """
    batch, levels = len(target.nodes), target.trie.num_levels
    result = _empty_result(batch, levels, k, target.nodes.device)
    rows = torch.arange(batch, device=target.nodes.device)
    beams = Beams.at_root(batch, k, target.nodes.device)
    while True:
        target.score(torch.cat([beams.nodes, drafter.propose(beams)], dim=1))
        result.target_calls[rows] += 1
        beams = _verify(beams, target, drafter, verification, result, rows)
        done = beams.depth == levels
        result.leaves[rows[done]], result.scores[rows[done]] = beams.nodes[done], beams.scores[done]
        result.margin[rows[done]] = torch.minimum(beams.margin, _closest(beams.scores))[done]
        if done.all():
            return result
        if done.any():
            left = (~done).nonzero().squeeze(1)
            rows, beams = rows[left], beams.select(left)
            target.select(left)
            drafter.select(left)


def _verify(
    beams: Beams, target: ScoredTree, drafter: Drafter, verification: Verification, result: SearchResult, rows: Tensor
) -> Beams:
    levels = target.trie.num_levels
    ready = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    for _ in range(levels):
        extended = verification.extend(beams, target, drafter)
        beams = beams.replaced(ready, extended)
        inner = ready & (beams.depth < levels)
        result.beams[rows[inner], beams.depth[inner] - 1] = beams.nodes[inner]
        ready = inner & target.find(beams.nodes)[1].all(1)
        result.accepted_steps[rows] += ready
        if not ready.any():
            break
    return beams


def _closest(scores: Tensor) -> Tensor:
    """[B] smallest gap between neighbours in the lists of `scores` [B, K]."""
    gaps = (scores[:, :-1] - scores[:, 1:]).nan_to_num(nan=torch.inf)
    return torch.cat([gaps, torch.full_like(scores[:, :1], torch.inf)], dim=1).amin(1)


def _empty_result(batch: int, levels: int, k: int, device: torch.device) -> SearchResult:
    accepted, calls = torch.zeros(2, batch, dtype=torch.long, device=device)
    nodes = torch.full((batch, levels, k), -1, device=device)
    scores = torch.full((batch, k), -torch.inf, device=device)
    return SearchResult(nodes[:, -1], scores, accepted, calls, nodes[:, :-1], scores[:, 0].clone())
