"""The published scheme, kept for comparison: N beams per level, drafted anew in every round, level by level.

AtSpeed (arXiv 2410.05165), section 3, without its published defects. Relaxed verification runs here alone; strict
verification runs here as a row of the benchmark, `search` is what the product uses.
"""

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from atspeed_core.decoding.acceptance import AcceptanceRule, RoundDraft, extensions, padded
from atspeed_core.decoding.beams import Beams, extended
from atspeed_core.decoding.device_trie import NO_NODE
from atspeed_core.decoding.retrieval import UniformTree
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import SearchResult
from atspeed_core.decoding.selection import sample_without_replacement, stable_topk


class RoundDrafter(RoundDraft, Protocol):
    """Drafts anew for every round."""

    def propose(self, beams: Beams) -> Tensor:
        """[B, W] nodes below `beams` to score in this round."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep only the requests `rows`."""
        ...


class NoDrafter:
    """Drafts nothing: the target alone, one level per round."""

    def propose(self, beams: Beams) -> Tensor:
        """See `RoundDrafter`."""
        return beams.nodes[:, :0]

    def drawn(self, nodes: Tensor) -> Tensor:
        """See `acceptance.RoundDraft`."""
        return torch.zeros_like(nodes, dtype=torch.bool)

    def scores(self, beams: Beams) -> Tensor:
        """See `acceptance.RoundDraft`."""
        return beams.scores[:, :0]

    def select(self, rows: Tensor) -> None:
        """See `RoundDrafter`."""


class UniformDrafter:
    """The paper's drafter: a draft extends the beams `num_steps` levels, `num_beams` nodes per level.

    With a generator the nodes of a level are sampled without replacement (for relaxed verification), else the best.
    """

    def __init__(
        self,
        tree: ScoredTree | UniformTree,
        *,
        num_beams: int,
        num_steps: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> None:
        """Draft with the model, prompts and trie of `tree`."""
        self._tree, self._num_beams, self._num_steps = tree, num_beams, num_steps
        self._generator, self._temperature = generator, temperature
        self._drafted = tree.nodes[:, :0]

    def propose(self, beams: Beams) -> Tensor:
        """[B, W] nodes below `beams` to score in this round; draft scores start from the target's of the beams."""
        levels: list[Tensor] = []
        for _ in range(min(self._num_steps, self._tree.trie.num_levels - 1 - int(beams.depth.min()))):
            self._tree.score(self._tree.trie.ancestors(beams.nodes).flatten(1))
            beams = self._extend(beams)
            levels.append(beams.nodes)
        self._drafted = torch.cat(levels, dim=1) if levels else beams.nodes[:, :0]
        return self._drafted

    def drawn(self, nodes: Tensor) -> Tensor:
        """See `acceptance.RoundDraft`."""
        if not self._drafted.shape[1]:
            return torch.zeros_like(nodes, dtype=torch.bool)
        # A search in sorted rows: comparing each with each was a sixth of a relaxed search on a CPU.
        drafted = self._drafted.sort(dim=1).values
        places = torch.searchsorted(drafted, nodes.to(drafted.dtype).contiguous()).clamp_(max=drafted.shape[1] - 1)
        return (drafted.gather(1, places) == nodes) & (nodes >= 0)

    def scores(self, beams: Beams) -> Tensor:
        """See `acceptance.RoundDraft`: sums of the draft's own log-probabilities from the root.

        No opinion where none of the extensions was drafted in this round, though the draft may have scored the beams
        along with those of other requests: what was not drafted is sampled from the target's distribution.
        """
        own = self._tree.path_scores(beams.nodes).masked_fill(beams.nodes < 0, -torch.inf)
        candidates, scores = extensions(replace(beams, scores=own), self._tree)
        known = self._tree.find(beams.nodes)[1].all(1) & self.drawn(candidates).any(1)
        return scores.masked_fill(~known.unsqueeze(1), -torch.inf)

    def select(self, rows: Tensor) -> None:
        """Keep only the requests `rows`."""
        self._tree.select(rows)
        self._drafted = self._drafted[rows]

    def _extend(self, beams: Beams) -> Beams:
        candidates, scores = extensions(beams, self._tree)
        width = self._num_beams
        candidates, scores = padded(candidates, width, NO_NODE).long(), padded(scores, width, -torch.inf)
        # An identifier's last level is never drafted: its scores come with the level before it.
        inner = (beams.depth + 1 < self._tree.trie.num_levels).unsqueeze(-1)
        scores = scores.masked_fill(~inner, -torch.inf)
        if self._generator is None:
            chosen = stable_topk(scores, width)[1]
        else:
            chosen = sample_without_replacement(scores / self._temperature, width, self._generator)
        return extended(beams, candidates, scores, chosen)


@torch.inference_mode()
def search_in_rounds(target: ScoredTree, drafter: RoundDrafter, acceptance: AcceptanceRule, k: int) -> SearchResult:
    """Search the `k` best identifiers for every request of `target`.

    1. The drafter proposes nodes below the current beams.
    2. The target scores beams and proposed nodes in one forward pass, under tree attention.
    3. The beams advance as long as all of them are scored; a drafted step is accepted if its K beams were drafted.
    4. Requests that reached the last level leave the batch; the others start the next round. (The last ones stay, so
       that a caller can read their scores from `target`.)
    """
    batch, levels = len(target.nodes), target.trie.num_levels
    result = SearchResult.empty(batch, levels, k, target.nodes.device)
    rows = torch.arange(batch, device=target.nodes.device)
    beams = Beams.at_root(batch, k, target.nodes.device)
    while True:
        known = (target.nodes > 0).sum(1)
        target.score(torch.cat([beams.nodes, drafter.propose(beams)], dim=1))
        result.target_nodes[rows] += (target.nodes > 0).sum(1) - known
        result.target_calls[rows] += 1
        beams = _verify(beams, target, drafter, acceptance, result, rows)
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
    beams: Beams,
    target: ScoredTree,
    drafter: RoundDrafter,
    acceptance: AcceptanceRule,
    result: SearchResult,
    rows: Tensor,
) -> Beams:
    levels = target.trie.num_levels
    ready = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    for _ in range(levels):
        extended = acceptance.extend(beams, target, drafter)
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
