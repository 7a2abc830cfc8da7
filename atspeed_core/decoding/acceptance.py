"""Rules of the published scheme that choose the extensions of verified beams: strict and relaxed."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from atspeed_core.decoding.beams import Beams, extended
from atspeed_core.decoding.retrieval import UniformTree
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.selection import gumbel, stable_topk


class RoundDraft(Protocol):
    """What a rule may ask the drafter: which nodes it proposed and how probable it considered them."""

    def drawn(self, nodes: Tensor) -> Tensor:
        """[B, n] bool: which of `nodes` [B, n] were drafted in this round."""
        ...

    def scores(self, beams: Beams) -> Tensor:
        """[B, K * M] the draft's scores of all extensions of `beams`; all -inf in a row (or [B, 0]): no opinion."""
        ...


class AcceptanceRule(Protocol):
    """A rule that extends verified beams by one level."""

    def extend(self, beams: Beams, target: ScoredTree, draft: RoundDraft) -> Beams:
        """The K beams one level deeper; their parents are all scored by `target`."""
        ...


def extensions(beams: Beams, tree: ScoredTree | UniformTree) -> tuple[Tensor, Tensor]:
    """All extensions [B, K * M] of scored beams and their cumulative log-probabilities, in order of (beam, code)."""
    children, step = tree.next_log_probs(beams.nodes)
    return children.flatten(1), (beams.scores.unsqueeze(-1) + step).flatten(1)


def padded(values: Tensor, width: int, fill: float) -> Tensor:
    """`values` [B, n] with at least `width` columns."""
    missing = max(0, width - values.shape[1])
    return torch.nn.functional.pad(values, (0, missing), value=fill)


@dataclass(frozen=True)
class Strict:
    """The target's own K best extensions (AtSpeed, section 3.1): the lists of its beam search, whatever was drafted."""

    def extend(self, beams: Beams, target: ScoredTree, draft: RoundDraft) -> Beams:
        """See `AcceptanceRule`; of equal scores the better beam's, then the lower code's extension wins."""
        k = beams.nodes.shape[1]
        candidates, scores = extensions(beams, target)
        scores = padded(scores, k + 1, -torch.inf)
        best, chosen = stable_topk(scores, k + 1)
        gap = (best[:, k - 1] - best[:, k]).nan_to_num(nan=torch.inf)  # fewer than k: nothing was left out
        made = extended(beams, padded(candidates, k + 1, -1).long(), scores, chosen[:, :k])
        return replace(made, margin=torch.minimum(beams.margin, gap))


@dataclass(frozen=True)
class Relaxed:
    """Accept drafted extensions with probability min(1, p / q), sample what is missing from max(0, p - q).

    AtSpeed, section 3.3. Approximate: it treats samples without replacement as ones with replacement. p and q are both
    normalised over the extensions of the current K beams; of more than K accepted the target's K best are kept; the
    temperature divides each level's log-probabilities once. Steps without a draft are sampled from p.

    Attributes:
        generator: source of randomness.
        temperature: of target and draft alike.
    """

    generator: torch.Generator
    temperature: float = 1.0

    def extend(self, beams: Beams, target: ScoredTree, draft: RoundDraft) -> Beams:
        """See `AcceptanceRule`."""
        k = beams.nodes.shape[1]
        candidates, scores = extensions(beams, target)
        candidates, scores = padded(candidates, k, -1).long(), padded(scores, k, -torch.inf)
        log_p = torch.log_softmax(scores / self.temperature, dim=-1)
        log_q = torch.log_softmax(padded(draft.scores(beams), log_p.shape[1], -torch.inf) / self.temperature, dim=-1)
        log_q = log_q.nan_to_num(nan=-torch.inf)  # no opinion: the residual is p itself
        accepted = self._accept(draft.drawn(candidates), log_p, log_q)
        weights = self._accepted_then_residual(accepted, log_p, log_q)
        return self._best_first(beams, candidates, scores, stable_topk(weights, k)[1])

    def _accept(self, drawn: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
        uniform = torch.rand(log_p.shape, generator=self.generator, device=log_p.device)
        return drawn & (uniform.log() <= log_p - log_q) & (log_p > -torch.inf)

    def _accepted_then_residual(self, accepted: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Keys that sort accepted candidates first (by p), then a sample from the residual, then one from p."""
        noise = gumbel(log_p.shape, self.generator)
        residual = (log_p.exp() - log_q.exp()).clamp(min=0).log() + noise
        above, below = 1e6, -1e6  # far outside the range of any log-probability plus noise
        keys = torch.where(residual > -torch.inf, residual, log_p + noise + below)
        keys = torch.where(accepted, log_p + above, keys)
        return keys.masked_fill(log_p == -torch.inf, -torch.inf)

    def _best_first(self, beams: Beams, candidates: Tensor, scores: Tensor, chosen: Tensor) -> Beams:
        order = stable_topk(scores.gather(1, chosen), chosen.shape[1])[1]
        return extended(beams, candidates, scores, chosen.gather(1, order))
