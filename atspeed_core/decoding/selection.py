"""Choosing among candidates: deterministic top-k and sampling without replacement."""

import torch
from torch import Tensor


def stable_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` best of `scores` [..., n] float32, best first, and their indices; equal scores: lower index first.

    torch.topk leaves the order of ties open; here each score and its index become one sortable integer.
    """
    bits = (scores.contiguous() + 0.0).view(torch.int32).long()  # -0.0 + 0.0 is 0.0: one zero, one tie
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # order of the floats, as integers
    tie_break = torch.arange(scores.shape[-1] - 1, -1, -1, device=scores.device)
    _, indices = ((ordered << 32) + tie_break).topk(k, dim=-1)
    return scores.gather(-1, indices), indices


def gumbel(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, float32, on the generator's device."""
    exponential = torch.empty(shape, device=generator.device).exponential_(generator=generator)
    return -exponential.clamp(min=torch.finfo(torch.float32).tiny).log()


def sample_without_replacement(log_weights: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """[..., k] indices sampled one after the other in proportion to exp(log_weights) [..., n] (Gumbel-top-k).

    Entries of -inf are sampled only when nothing else is left.
    """
    return stable_topk(log_weights + gumbel(log_weights.shape, generator), k)[1]
