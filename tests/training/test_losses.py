"""Every loss against a naive loop over contexts, sequences, levels and codes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed_core.training import losses

seeds = st.integers(0, 10**6)


def random_case(seed: int):
    """Distributions over a varying number of valid codes, weights with padding."""
    g = torch.Generator().manual_seed(seed)
    valid = torch.rand(2, 4, 5, generator=g) < 0.7
    valid[..., 0] = True
    valid[1, 3] = False  # a padding node
    log_q, log_p = (losses.normalised(torch.randn(2, 4, 5, generator=g) * 2, valid) for _ in range(2))
    weights = torch.rand(2, 4, generator=g)
    weights[1, 3] = 0
    log_p_kth = -torch.rand(2, 4, generator=g) * 5
    return log_q, log_p, log_p_kth, weights / weights.sum(1, keepdim=True), valid


def naive(term, log_q, log_p, log_p_kth, weights, valid):
    total = 0.0
    for b, t, c in valid.nonzero().tolist():
        q, p = math.exp(log_q[b, t, c]), math.exp(log_p[b, t, c])
        total += float(weights[b, t]) * term(q, p, math.exp(log_p_kth[b, t]))
    return total / len(log_q)


@settings(deadline=None)
@given(seeds, st.sampled_from([0.0, 0.3, 1.0]))
def test_atspeed_s_is_reverse_kl_minus_density_regularisation(seed, beta):
    log_q, log_p, log_p_kth, weights, valid = random_case(seed)
    value = losses.atspeed_s(log_q, log_p, log_p_kth, weights, beta=beta)
    expected = naive(
        lambda q, p, kth: q * math.log(q / p) - beta * q * math.log(q / kth), log_q, log_p, log_p_kth, weights, valid
    )
    assert float(value) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(deadline=None)
@given(seeds)
def test_atspeed_r_is_total_variation(seed):
    log_q, log_p, log_p_kth, weights, valid = random_case(seed)
    expected = naive(lambda q, p, _: 0.5 * abs(q - p), log_q, log_p, log_p_kth, weights, valid)
    assert float(losses.atspeed_r(log_q, log_p, weights)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_terms_vanish_where_the_draft_equals_the_target():
    log_q, _, _, weights, _ = random_case(1)
    assert float(losses.reverse_kl(log_q, log_q).abs().max()) < 1e-6
    assert float(losses.atspeed_r(log_q, log_q, weights)) == 0


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_gradients_are_finite_with_codes_that_are_not_valid(seed):
    *_, log_p_kth, weights, valid = random_case(seed)
    _, log_p, *_ = random_case(seed)
    logits = torch.randn(2, 4, 5, requires_grad=True)
    log_q = losses.normalised(logits, valid)
    (losses.atspeed_s(log_q, log_p, log_p_kth, weights, beta=0.5) + losses.atspeed_r(log_q, log_p, weights)).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[~valid] == 0).all()
    assert logits.grad.abs().sum() > 0


def test_normalised_sums_to_one_over_the_valid_codes():
    *_, valid = random_case(3)
    probabilities = losses.normalised(torch.randn(2, 4, 5), valid).exp().sum(-1)
    assert probabilities[1, 3] == 0
    torch.testing.assert_close(probabilities.flatten()[:-1], torch.ones(7))


@settings(deadline=None)
@given(seeds)
def test_wordkd_is_forward_kl(seed):
    log_q, log_p, log_p_kth, weights, valid = random_case(seed)
    expected = naive(lambda q, p, _: p * math.log(p / q), log_q, log_p, log_p_kth, weights, valid)
    assert float(losses.wordkd(log_q, log_p, weights)) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert float(losses.wordkd(log_p, log_p, weights)) == pytest.approx(0, abs=1e-6)


def test_seqkd_is_the_cross_entropy_of_the_target_s_sequences():
    taken = torch.tensor([[[0.5, 0.25], [0.1, 0.5]], [[0.5, 0.5], [1.0, 1.0]]]).log()
    exists = torch.tensor([[True, True], [True, False]])
    first = -(math.log(0.5) + math.log(0.25) + math.log(0.1) + math.log(0.5)) / 4
    assert float(losses.seqkd(taken, exists)) == pytest.approx((first + math.log(2)) / 2)


def test_prefix_containment_of_values_computed_by_hand():
    along = torch.tensor([[2.0, 1.0, 9.0], [4.0, 9.0, 9.0]])
    missing = torch.tensor([[0.5, 0.0, 1.0], [0.25, 1.0, 1.0]])
    exists = torch.tensor([[True, True, False], [True, False, False]])
    expected = ((0.6 * 2 + 0.1 * 1) / 2 + 0.35 * 4) / 2
    assert float(losses.prefix_containment(along, missing, exists)) == pytest.approx(expected)
