"""Alignment losses as pure functions of log-probabilities over the valid codes (AtSpeed, section 3.2 and 3.3).

Shapes: Q contexts of one batch, T prefixes a context, M valid codes at most after a prefix. `log_q` and `log_p`
[B, T, M] are float32 log-probabilities of draft and target, normalised over the valid codes ("constrained alignment"),
-inf where there is no such code. `weights` [B, T] are the shares of the sequences Y that pass a prefix, 0 for padding;
for K sequences of length L they sum to 1 over a context, so that a weighted sum is the mean over y in Y and over t.
"""

import torch
from torch import Tensor


def normalised(log_probs: Tensor, valid: Tensor) -> Tensor:
    """Log-probabilities [..., M] normalised over the `valid` codes; -inf elsewhere, and everywhere if none is valid."""
    masked = log_probs.masked_fill(~valid, -torch.inf)
    total = torch.logsumexp(masked, dim=-1, keepdim=True)
    return torch.where(valid, masked - total.masked_fill(total == -torch.inf, 0.0), -torch.inf)


def reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """[B, T] sum over codes of q log(q / p): the first term of eq. 3."""
    return _expected(log_q, _finite(log_q) - _finite(log_p))


def density_regularisation(log_q: Tensor, log_p_kth: Tensor) -> Tensor:
    """[B, T] sum over codes of q log(q / p_K): the second term of eq. 3, which is subtracted.

    `log_p_kth` [B, T] is the target's log-probability of the code that its K-th best sequence has at that level.
    """
    return _expected(log_q, _finite(log_q) - log_p_kth.unsqueeze(-1))


def total_variation(log_q: Tensor, log_p: Tensor) -> Tensor:
    """[B, T] half the sum over codes of |q - p|: eq. 8."""
    return 0.5 * (log_q.exp() - log_p.exp()).abs().sum(-1)


def atspeed_s(log_q: Tensor, log_p: Tensor, log_p_kth: Tensor, weights: Tensor, *, beta: float) -> Tensor:
    """Mean over contexts of eq. 3; `beta` weighs the density regularisation (published: 1)."""
    loss = reverse_kl(log_q, log_p) - beta * density_regularisation(log_q, log_p_kth)
    return (weights * loss).sum(-1).mean()


def atspeed_r(log_q: Tensor, log_p: Tensor, weights: Tensor) -> Tensor:
    """Mean over contexts of eq. 8."""
    return (weights * total_variation(log_q, log_p)).sum(-1).mean()


def _expected(log_q: Tensor, values: Tensor) -> Tensor:
    return (log_q.exp() * values.masked_fill(log_q == -torch.inf, 0.0)).sum(-1)


def _finite(log_probs: Tensor) -> Tensor:
    """Log-probabilities without -inf, so that 0 * log 0 is 0 and its gradient is no NaN."""
    return log_probs.masked_fill(log_probs == -torch.inf, 0.0)
