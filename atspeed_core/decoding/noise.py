"""Gumbel noise that target and draft share, and its way down the trie: stochastic beam search.

Kool, van Hoof, Welling, "Stochastic Beams and Where to Find Them" (arXiv 1903.06059): the K leaves of largest
log-probability plus Gumbel noise are a sample without replacement. Key of an inner node is the largest key of its
leaves; it is drawn first, and the keys of its children are then drawn under the condition that they have this maximum,
so that a beam search over keys finds the K leaves.
"""

import torch
from torch import Tensor

# The mixing function of the generator splitmix64 (Steele, Lea, Flood, doi:10.1145/2660193.2660195; Vigna's constants)
_STEP = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
_UNIFORM_BITS = 52  # with the half that is added below they are all that float64 holds


def keyed_gumbel(seed: int, requests: Tensor, nodes: Tensor) -> Tensor:
    """Standard Gumbel noise that depends on seed, request and node alone.

    Each request of each seed has its own splitmix64 sequence and each node its place in it, so neither the batch nor
    the order of the search matters. The random bits are the same on every device; the logarithms, taken in float64,
    may in rare cases round to the neighbouring float32.

    Args:
        seed: any integer; what is beyond 64 bits has no effect.
        requests: [B] int64 number of each request.
        nodes: [B, ...] int64 numbers of nodes.

    Returns:
        [B, ...] float32, between -4 and 37.
    """
    seeds = _drawn(torch.zeros_like(requests), torch.full_like(requests, _signed(seed)))
    starts = _drawn(seeds, requests).view(-1, *[1] * (nodes.ndim - 1))
    return _gumbel(_drawn(starts, nodes))


def conditional_gumbels(parent_key: Tensor, location: Tensor, noise: Tensor) -> Tensor:
    """Keys of children: Gumbels at `location`, under the condition that their maximum is `parent_key`.

    arXiv 1903.06059, section 4.1 and, for the form that does not cancel or overflow, appendix B.3. No key exceeds the
    parent's, and the child of largest location + noise has exactly the parent's.

    Args:
        parent_key: [B, K] float32; 0 for the root, whose location is 0.
        location: [B, K, M] float32 cumulative log-probabilities of the children, normalised among siblings: their
            logsumexp over M is the location of the parent. -inf for what is no child.
        noise: [B, K, M] float32 independent standard Gumbels.

    Returns:
        [B, K, M] float32; -inf where the location is -inf.
    """
    free = location + noise
    below = free - free.amax(-1, keepdim=True)  # 0 for the largest
    limit = parent_key.unsqueeze(-1)
    excess = limit - free + _log1mexp(below)
    keys = limit - excess.clamp(min=0) - torch.log1p(torch.exp(-excess.abs()))
    return keys.masked_fill(location == -torch.inf, -torch.inf)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of x <= 0, accurate for x near 0 and far from it."""
    return torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def _drawn(start: Tensor, place: Tensor) -> Tensor:
    """64 random bits: number `place` of the splitmix64 sequence that begins at `start`; int64, which wraps around."""
    state = start + (place + 1) * _signed(_STEP)
    for shift, multiplier in zip(_SHIFTS[:2], _MULTIPLIERS, strict=True):
        state = (state ^ _shifted(state, shift)) * _signed(multiplier)
    return state ^ _shifted(state, _SHIFTS[2])


def _shifted(bits: Tensor, places: int) -> Tensor:
    """`bits` moved right with zeros coming in from the left (>> of int64 repeats the sign)."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _gumbel(bits: Tensor) -> Tensor:
    """float32 Gumbels from 64 random bits each; the uniform numbers in between are never 0 or 1."""
    uniform = (_shifted(bits, 64 - _UNIFORM_BITS).double() + 0.5) * 2.0**-_UNIFORM_BITS
    return -torch.log(-torch.log(uniform)).float()


def _signed(number: int) -> int:
    """The low 64 bits of `number` as a signed integer."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
