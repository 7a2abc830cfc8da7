"""Alignment losses as pure functions of log-probabilities (AtSpeed, sections 3.2 and 3.3, and its baselines).

Shapes: B contexts of one batch, T prefixes per context, M codes after a prefix: its valid ones ("constrained
alignment") or the whole vocabulary. `log_q` and `log_p` [B, T, M] are float32 log-probabilities of draft and target,
normalised over these codes, -inf where there is no such code. `weights` [B, T] are the shares of the sequences Y that
pass a prefix, 0 for padding; over a context they sum to 1, so that a weighted sum is the mean over the sequences y in Y
and over their levels t.
"""

import torch
from torch import Tensor

CONTAINED_FLOOR = 0.1  # weight of a prefix that is certain to be drafted


def normalised(log_probs: Tensor, valid: Tensor) -> Tensor:
    """Log-probabilities [..., M] normalised over the `valid` codes; -inf elsewhere, and everywhere if none is valid."""
    masked = log_probs.masked_fill(~valid, -torch.inf)
    total = torch.logsumexp(masked, dim=-1, keepdim=True)
    return torch.where(valid, masked - total.masked_fill(total == -torch.inf, 0.0), -torch.inf)


def reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """[B, T] sum over codes of q log(q / p): the first term of eq. 3."""
    return _expected(log_q, _finite(log_q) - _finite(log_p))


def forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """[B, T] sum over codes of p log(p / q)."""
    return _expected(log_p, _finite(log_p) - _finite(log_q))


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
    """Mean over contexts of eq. 8; along the ground truth alone this is the baseline TVDKD."""
    return (weights * total_variation(log_q, log_p)).sum(-1).mean()


def wordkd(log_q: Tensor, log_p: Tensor, weights: Tensor) -> Tensor:
    """Mean over contexts of the forward KL divergence (Kim and Rush, arXiv 1606.07947, section 3.1)."""
    return (weights * forward_kl(log_q, log_p)).sum(-1).mean()


def seqkd(log_q_taken: Tensor, exists: Tensor) -> Tensor:
    """Mean over contexts, over y in Y and over t of -log q(y_t | y_<t) (arXiv 1606.07947, section 3.2).

    Args:
        log_q_taken: [B, K, L] the draft's log-probability of each code of the target's sequences.
        exists: [B, K] bool; a context has at least one.
    """
    by_sequence = -log_q_taken.mean(-1).masked_fill(~exists, 0.0)
    return (by_sequence.sum(1) / exists.sum(1)).mean()


def prefix_containment(along: Tensor, missing: Tensor, exists: Tensor) -> Tensor:
    """Mean over contexts and prefixes y of (floor + m(y)) times the mean of KL(p, q) over the proper prefixes of y.

    Args:
        along: [B, P] float32 that mean of forward KL divergences, for each of a context's prefixes.
        missing: [B, P] float32 m(y), 0 .. 1, how close y is to not being drafted.
        exists: [B, P] bool.
    """
    loss = ((CONTAINED_FLOOR + missing) * along).masked_fill(~exists, 0.0)
    return (loss.sum(1) / exists.sum(1).clamp(min=1)).mean()


def _expected(log_probs: Tensor, values: Tensor) -> Tensor:
    return (log_probs.exp() * values.masked_fill(log_probs == -torch.inf, 0.0)).sum(-1)


def _finite(log_probs: Tensor) -> Tensor:
    """Log-probabilities without -inf, so that 0 * log 0 is 0 and its gradient is no NaN."""
    return log_probs.masked_fill(log_probs == -torch.inf, 0.0)
