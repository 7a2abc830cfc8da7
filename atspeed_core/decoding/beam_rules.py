"""How candidates are ranked when a beam grows by one level: by their score, or by their score under shared noise."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from atspeed_core.decoding.noise import conditional_gumbels, keyed_gumbel


@dataclass(frozen=True)
class Candidates:
    """All extensions of a beam.

    Attributes:
        keys: [B, K, M] float32 what they are ranked by; -inf for what is no extension.
        scores: [B, K, M] float32 cumulative log-probabilities.
    """

    keys: Tensor
    scores: Tensor


class BeamRule(Protocol):
    """Ranks extensions. A candidate's key never exceeds its parent's: the search relies on it."""

    def extend(self, keys: Tensor, scores: Tensor, children: Tensor, step: Tensor) -> Candidates:
        """Extensions of beams with `keys` and `scores` [B, K] by `children` [B, K, M] with log-probabilities `step`."""
        ...

    def select(self, rows: Tensor) -> "BeamRule":
        """The rule for the requests `rows` of the batch."""
        ...


@dataclass(frozen=True)
class BestScore:
    """Beam search as `transformers` runs it: sums of log-probabilities over the full vocabulary."""

    def extend(self, keys: Tensor, scores: Tensor, children: Tensor, step: Tensor) -> Candidates:
        """See `BeamRule`."""
        total = scores.unsqueeze(-1) + step
        return Candidates(total, total)

    def select(self, rows: Tensor) -> "BestScore":
        """See `BeamRule`."""
        return self


@dataclass(frozen=True)
class GumbelTopK:
    """Stochastic beam search: K identifiers sampled without replacement (arXiv 1903.06059).

    The distribution is that of sampling codes level by level from softmax(log p / temperature) over the valid codes.
    The noise depends on seed, request and node alone, so the beams are a function of the target's log-probabilities:
    whatever was drafted, the sample is the same, and a draft under the same noise tends to sample what the target
    samples.

    Attributes:
        seed: of the noise.
        requests: [B] int64 number of each request, which with the seed names its noise.
        temperature: divides log-probabilities, once, before they are normalised.
    """

    seed: int
    requests: Tensor
    temperature: float = 1.0

    def extend(self, keys: Tensor, scores: Tensor, children: Tensor, step: Tensor) -> Candidates:
        """See `BeamRule`; `scores` are log-probabilities under the distribution above."""
        step = torch.log_softmax(step / self.temperature, dim=-1).nan_to_num(nan=-torch.inf)  # nan: no child at all
        total = scores.unsqueeze(-1) + step
        noise = keyed_gumbel(self.seed, self.requests, children)
        return Candidates(conditional_gumbels(keys, total, noise), total)

    def select(self, rows: Tensor) -> "GumbelTopK":
        """See `BeamRule`."""
        return replace(self, requests=self.requests[rows])
