"""RQ-VAE: an autoencoder whose latent vectors are quantised residually while it learns.

Zeghidour et al. 2021 (SoundStream), Lee et al. 2022 (RQ-VAE), as used for items by TIGER (Rajput et al. 2023) and
LC-Rec (Zheng et al. 2024): codebooks start from residual k-means of the first latents, gradients pass the
quantiser straight through, a commitment term holds latents near their codes.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from atspeed_core.identifiers.quantization import FloatArray, Quantization, quantize_with, residual_kmeans
from atspeed_core.settings import RqVae

log = logging.getLogger(__name__)

REPORTS = 5  # log lines over a training


class RqVaeModel(nn.Module):
    """Encoder, codebooks [levels, width, latent_dim] and decoder."""

    def __init__(self, input_dim: int, settings: RqVae, *, num_levels: int, width: int) -> None:
        """Start with random layers and codebooks of zeros.

        Args:
            input_dim: dimensions of an item vector.
            settings: the section `build_identifiers.rq_vae`.
            num_levels: codes an item.
            width: codes a level.
        """
        super().__init__()
        dims = [input_dim, *settings.hidden_dims, settings.latent_dim]
        self.encoder = _mlp(dims)
        self.decoder = _mlp(dims[::-1])
        self.codebooks = nn.Parameter(torch.zeros(num_levels, width, settings.latent_dim))
        self.commitment = settings.commitment

    def losses(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the reconstruction, and the quantiser's loss; summed over dimensions, mean over items.

        Args:
            vectors: [batch, input_dim] float32.
        """
        quantised, quantiser_loss = quantise(self.encoder(vectors), self.codebooks, self.commitment)
        return _squared_error(self.decoder(quantised), vectors), quantiser_loss


def quantise(latents: Tensor, codebooks: Tensor, commitment: float) -> tuple[Tensor, Tensor]:
    """Replace latents by the sums of their codes, level by level.

    Args:
        latents: [batch, latent_dim].
        codebooks: [levels, width, latent_dim].
        commitment: weight of the pull of latents to their codes, relative to the pull of codes to latents of weight 1.

    Returns:
        [batch, latent_dim] whose gradient is that of `latents` (straight through), and the mean loss of the levels.
    """
    residual = latents
    losses = []
    for codebook in codebooks:
        chosen = codebook[torch.cdist(residual.detach(), codebook.detach()).argmin(dim=1)]
        pull_codes = _squared_error(chosen, residual.detach())
        pull_latents = _squared_error(chosen.detach(), residual)
        losses.append(pull_codes + commitment * pull_latents)
        residual = residual - chosen.detach()
    quantised = latents - residual.detach()  # the sum of the codes, with the gradient of `latents`
    return quantised, torch.stack(losses).mean()


def train_rq_vae(vectors: FloatArray, settings: RqVae, *, num_levels: int, width: int, seed: int) -> Quantization:
    """Train an RQ-VAE on item vectors and quantise their latents with its codebooks.

    Args:
        vectors: [items, dimensions] float32.
        settings: the section `build_identifiers.rq_vae`.
        num_levels: codes an item.
        width: codes a level.
        seed: same seed, same codes, whatever the number of cores; torch's own generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        model = RqVaeModel(vectors.shape[1], settings, num_levels=num_levels, width=width)
        data = torch.from_numpy(vectors)
        _initialise_codebooks(model, data, seed)
        _fit(model, data, settings)
    codebooks = model.codebooks.detach().numpy()
    return quantize_with(_latents(model, data), codebooks)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Fix the order of sums; layers this small gain nothing from a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(model: RqVaeModel, data: Tensor, settings: RqVae) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    for epoch in range(1, settings.epochs + 1):
        sums = torch.zeros(2)  # reconstruction, quantiser
        for batch in torch.split(torch.randperm(len(data)), settings.batch_size):
            losses = torch.stack(model.losses(data[batch]))
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            sums += losses.detach() * len(batch)
        if epoch <= settings.epochs // 2:  # later, codes and latents settle undisturbed
            _revive_unused_codes(model, data)
        if epoch % max(1, settings.epochs // REPORTS) == 0:
            means = (sums / len(data)).tolist()
            log.info("RQ-VAE epoch %d of %d: reconstruction %.4f, quantiser %.4f", epoch, settings.epochs, *means)


def _initialise_codebooks(model: RqVaeModel, data: Tensor, seed: int) -> None:
    num_levels, width, _ = model.codebooks.shape
    start = residual_kmeans(_latents(model, data), num_levels=num_levels, width=width, seed=seed)
    with torch.no_grad():
        model.codebooks.copy_(torch.from_numpy(start.codebooks))


def _revive_unused_codes(model: RqVaeModel, data: Tensor) -> None:
    """Move codes that no item uses to random residuals of their level: they would never be trained again."""
    with torch.no_grad():
        residual = model.encoder(data)
        for codebook in model.codebooks:
            codes = torch.cdist(residual, codebook).argmin(dim=1)
            unused = torch.bincount(codes, minlength=len(codebook)) == 0
            replacements = torch.randint(len(residual), (int(unused.sum()),))
            codebook[unused] = residual[replacements]
            residual = residual - codebook[codes]


def _latents(model: RqVaeModel, data: Tensor) -> FloatArray:
    with torch.no_grad():
        latents: FloatArray = model.encoder(data).numpy()
    return latents


def _squared_error(left: Tensor, right: Tensor) -> Tensor:
    return functional.mse_loss(left, right, reduction="sum") / len(left)


def _mlp(dims: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide_in, wide_out in pairwise(dims):
        layers += [nn.Linear(wide_in, wide_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
