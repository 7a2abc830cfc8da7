"""Training sequences as token windows: every next item of a history is a target of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.models.prompts import PromptEncoder, left_padded

IGNORED = -100  # label that the loss leaves out
POOL_BATCHES = 32


@dataclass(frozen=True)
class TokenBatch:
    """Windows of one batch, left-padded.

    Attributes:
        ids: [B, S] int64 token ids.
        mask: [B, S] int64, 0 for padding.
        labels: [B, S] int64: the token itself where it belongs to an item that has a history, else IGNORED.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor


def cut_windows(sequence: NDArray[np.int64], num_items: int, offset: int) -> Iterator[NDArray[np.int64]]:
    """Cut a sequence into windows of `num_items` that share an item, so that each item but the first is a target.

    The first window ends `offset` items (0 .. num_items - 2) early: with a new offset in each epoch, every item has
    histories of varying length.
    """
    step = num_items - 1
    start = -offset
    while start < len(sequence) - 1:
        window = sequence[max(start, 0) : start + num_items]
        if len(window) > 1:
            yield window
        start += step


def epoch_windows(
    sequences: Sequence[NDArray[np.int64]], *, window_items: int, batch_size: int, seed: Sequence[int]
) -> list[NDArray[np.int64]]:
    """The windows of one epoch in random order; those of one batch have similar lengths, so that little is padding.

    Windows are sorted by length within pools of `POOL_BATCHES` batches, then the batches are shuffled.
    """
    rng = np.random.default_rng(list(seed))
    offsets = rng.integers(0, window_items - 1, len(sequences))
    windows = [w for s, o in zip(sequences, offsets, strict=True) for w in cut_windows(s, window_items, int(o))]
    lengths = np.array([len(w) for w in windows])
    order = rng.permutation(len(windows))
    pools = [
        order[start : start + POOL_BATCHES * batch_size] for start in range(0, len(order), POOL_BATCHES * batch_size)
    ]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]) if pools else order
    whole = len(order) - len(order) % batch_size  # the remainder is a smaller batch, at the end
    batches = rng.permutation(order[:whole].reshape(-1, batch_size))
    return [windows[i] for i in np.concatenate([batches.flatten(), order[whole:]])]


def token_batch(windows: Sequence[NDArray[np.int64]], encoder: PromptEncoder) -> TokenBatch:
    """Token windows with the prompt's prefix before each; the first item of a window is history, not a target."""
    rows = [encoder.prefix + encoder.item_tokens[torch.from_numpy(w)].flatten().tolist() for w in windows]
    ids, mask = left_padded(rows, encoder.pad_id)
    skipped = len(encoder.prefix) + encoder.catalog.num_levels
    first_label = ids.shape[1] - mask.sum(1, keepdim=True) + skipped
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < first_label, IGNORED)
    return TokenBatch(ids, mask, labels)
