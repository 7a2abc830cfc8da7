"""Residual k-means and RQ-VAE: each level leaves less, a seed fixes the codes, small data is no error."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from atspeed_core.identifiers.quantization import (
    FloatArray,
    Quantization,
    nearest,
    quantize_with,
    residual_kmeans,
    squared_distances,
)
from atspeed_core.identifiers.rq_vae import quantise, train_rq_vae
from atspeed_core.settings import RqVae

SMALL_VAE = RqVae(latent_dim=4, hidden_dims=[16], epochs=60, batch_size=64, learning_rate=3e-3)

Method = Callable[..., Quantization]


def rq_vae(vectors: FloatArray, *, num_levels: int, width: int, seed: int) -> Quantization:
    return train_rq_vae(vectors, SMALL_VAE, num_levels=num_levels, width=width, seed=seed)


def clusters(num_items: int = 200) -> FloatArray:
    """Eight clusters in eight dimensions."""
    rng = np.random.default_rng(0)
    return (np.eye(8)[np.arange(num_items) % 8] + 0.1 * rng.normal(size=(num_items, 8))).astype(np.float32)


@pytest.mark.parametrize("method", [residual_kmeans, rq_vae])
def test_each_level_leaves_less(method: Method) -> None:
    made = method(clusters(), num_levels=3, width=8, seed=0)
    errors = made.errors(made.codes)
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < 0.3


@pytest.mark.parametrize("method", [residual_kmeans, rq_vae])
def test_a_seed_fixes_the_codes(method: Method) -> None:
    first, second, other = (method(clusters(), num_levels=3, width=8, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.codebooks, second.codebooks)
    assert not np.array_equal(first.codes, other.codes)


@pytest.mark.parametrize("method", [residual_kmeans, rq_vae])
def test_codes_are_the_nearest_rows_of_the_codebooks(method: Method) -> None:
    made = method(clusters(), num_levels=3, width=8, seed=0)
    np.testing.assert_array_equal(quantize_with(made.vectors, made.codebooks).codes, made.codes)
    for level in range(3):
        distances = ((made.residuals(level, made.codes)[:, None] - made.codebooks[level]) ** 2).sum(axis=2)
        chosen = distances[np.arange(len(distances)), made.codes[:, level]]
        np.testing.assert_allclose(chosen, distances.min(axis=1), atol=1e-5)


def test_first_level_finds_the_clusters() -> None:
    made = residual_kmeans(clusters(), num_levels=1, width=8, seed=0)
    assert [len(np.unique(made.codes[cluster::8])) for cluster in range(8)] == [1] * 8
    assert len(np.unique(made.codes)) == 8


def test_fewer_distinct_vectors_than_codes_are_coded_exactly(caplog: pytest.LogCaptureFixture) -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    with caplog.at_level(logging.WARNING):
        made = residual_kmeans(vectors, num_levels=2, width=5, seed=0)
    assert made.codebooks.shape == (2, 5, 3)
    assert len(np.unique(made.codes, axis=0)) == 3
    assert made.errors(made.codes)[0] == pytest.approx(0, abs=1e-8)
    assert "level 1: only 3 distinct residuals for 5 codes" in caplog.text


def test_rq_vae_reconstructs_and_uses_its_codes() -> None:
    made = rq_vae(clusters(), num_levels=2, width=8, seed=0)
    assert len(np.unique(made.codes[:, 0])) == 8
    # items of one cluster have nearer latents than items of two
    distances = squared_distances(made.vectors, made.vectors)
    same = (np.arange(200)[:, None] - np.arange(200)) % 8 == 0
    assert distances[same].mean() < 0.2 * distances[~same].mean()


def test_rq_vae_leaves_the_state_of_torch_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    rq_vae(clusters(32), num_levels=1, width=4, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_quantiser_passes_the_gradient_straight_through() -> None:
    latents = torch.tensor([[0.9, 0.2]], requires_grad=True)
    codebooks = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.2]]], requires_grad=True)
    quantised, loss = quantise(latents, codebooks, commitment=0.5)
    torch.testing.assert_close(quantised, torch.tensor([[1.0, 0.2]]))
    (gradient,) = torch.autograd.grad(quantised.sum(), latents, retain_graph=True)
    torch.testing.assert_close(gradient, torch.ones(1, 2))
    # level 1 is off by (0.1, -0.2), level 2 by (0.1, 0): 1.5 * mean(0.05, 0.01)
    assert loss.item() == pytest.approx(0.045)
    to_latents, to_codes = torch.autograd.grad(loss, (latents, codebooks))
    # commitment pulls the latent, with half the weight, towards the codes of both levels
    torch.testing.assert_close(to_latents, torch.tensor([[-0.1, 0.1]]))
    torch.testing.assert_close(to_codes[0, 0], torch.tensor([0.1, -0.2]))
    assert to_codes[0, 1].abs().sum() == 0


def test_nearest_takes_the_lowest_of_equals() -> None:
    centers = np.array([[1.0], [0.0], [0.0]], dtype=np.float32)
    assert nearest(np.array([[0.2], [0.5], [2.0]], dtype=np.float32), centers).tolist() == [1, 0, 0]
