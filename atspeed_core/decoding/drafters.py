"""Drafters: which trie nodes the target should score along with the beams it has."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from atspeed_core.decoding.beams import Beams, extended
from atspeed_core.decoding.device_trie import NO_NODE
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.selection import sample_without_replacement, stable_topk
from atspeed_core.decoding.verification import extensions, padded


class Drafter(Protocol):
    """Proposes nodes for a round and answers `verification.Draft` about them."""

    def propose(self, beams: Beams) -> Tensor:
        """[B, W] nodes below `beams` for the target to score in this round (NO_NODE allowed)."""
        ...

    def drawn(self, nodes: Tensor) -> Tensor:
        """[B, n] bool: which of `nodes` [B, n] were drafted in this round."""
        ...

    def scores(self, beams: Beams) -> Tensor:
        """[B, K * M] the draft's scores of all extensions of `beams`; all -inf in a row (or [B, 0]): no opinion."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep only the requests `rows`."""
        ...


class NoDrafter:
    """Proposes nothing: the search is the target's own beam search, one level a call."""

    def propose(self, beams: Beams) -> Tensor:
        """See `Drafter`."""
        return beams.nodes[:, :0]

    def drawn(self, nodes: Tensor) -> Tensor:
        """See `Drafter`."""
        return torch.zeros_like(nodes, dtype=torch.bool)

    def scores(self, beams: Beams) -> Tensor:
        """See `Drafter`."""
        return beams.scores[:, :0]

    def select(self, rows: Tensor) -> None:
        """See `Drafter`."""


@dataclass
class OracleDrafter(NoDrafter):
    """Proposes exactly the beams that the target will choose, at no cost: the most any drafter could reach.

    Attributes:
        nodes: [B, W] the true beams of every depth below L.
    """

    nodes: Tensor

    def propose(self, beams: Beams) -> Tensor:
        """See `Drafter`."""
        return self.nodes

    def select(self, rows: Tensor) -> None:
        """See `Drafter`."""
        self.nodes = self.nodes[rows]


class AutoregressiveDrafter:
    """The paper's drafter: a small language model extends the beams `num_steps` levels, `num_beams` nodes a level.

    With a generator the nodes of a level are sampled without replacement (for relaxed verification), else the best.
    """

    def __init__(
        self,
        tree: ScoredTree,
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
        """See `Drafter`: draft scores start from the target's scores of the beams."""
        levels: list[Tensor] = []
        for _ in range(min(self._num_steps, self._tree.trie.num_levels - 1 - int(beams.depth.min()))):
            self._tree.score(self._tree.trie.ancestors(beams.nodes).flatten(1))
            beams = self._extend(beams)
            levels.append(beams.nodes)
        self._drafted = torch.cat(levels, dim=1) if levels else beams.nodes[:, :0]
        return self._drafted

    def drawn(self, nodes: Tensor) -> Tensor:
        """See `Drafter`."""
        return (nodes.unsqueeze(-1) == self._drafted.unsqueeze(1)).any(-1) & (nodes >= 0)

    def scores(self, beams: Beams) -> Tensor:
        """See `Drafter`: sums of the draft's own log-probabilities from the root."""
        own = self._tree.path_scores(beams.nodes).masked_fill(beams.nodes < 0, -torch.inf)
        scores = extensions(replace(beams, scores=own), self._tree)[1]
        known = self._tree.find(beams.nodes)[1].all(1, keepdim=True)
        return scores.masked_fill(~known, -torch.inf)

    def select(self, rows: Tensor) -> None:
        """See `Drafter`."""
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
