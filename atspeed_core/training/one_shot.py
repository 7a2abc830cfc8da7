"""Training of the one-shot draft: forward KL divergence from the target to it over the children of cached prefixes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.models.one_shot import OneShotDraft, Scores, padded_items
from atspeed_core.settings import AlignDraft
from atspeed_core.training import losses
from atspeed_core.training.alignment import AlignmentData
from atspeed_core.training.curves import Curves
from atspeed_core.training.loop import Schedule, epochs, train
from atspeed_core.training.topk_cache import CachedBatch


def train_one_shot(
    draft: OneShotDraft, data: AlignmentData, settings: AlignDraft, *, checkpoint: Path | None = None
) -> Curves:
    """Train `draft` in place; returns its learning curves.

    With `checkpoint`, a file, a stopped run resumes from its last state and ends with the same weights.
    """
    shape = settings.one_shot

    def batches(start: int) -> Iterator[list[np.int64]]:
        return epochs(lambda epoch: _permutation(len(data.cache), settings.seed, epoch), shape.batch_size, start)

    def terms(batch: list[np.int64], step: int) -> dict[str, Tensor]:
        loss = one_shot_loss(draft, data, data.cache.batch(np.array(batch), data.trie))
        return {"loss": loss, "alignment_loss": loss}

    schedule = Schedule(shape.num_updates, shape.learning_rate, settings.weight_decay)
    return train(draft, batches, terms, schedule, label="training one_shot", checkpoint=checkpoint)


def one_shot_loss(draft: OneShotDraft, data: AlignmentData, cached: CachedBatch) -> Tensor:
    """The distillation loss of one batch of contexts, with gradient."""
    histories = [data.history(context) for context in cached.contexts]
    items = padded_items(histories, max_history=draft.max_history).to(data.trie.device)
    return distillation(draft, draft(items), cached, data.trie)


def distillation(draft: OneShotDraft, scores: Scores, cached: CachedBatch, trie: DeviceTrie) -> Tensor:
    """Mean over contexts of the sum over cached prefixes of weight(prefix) KL(p(.|prefix) || q(.|prefix)).

    The weight is the share of the target's K sequences that pass a prefix, p is normalised over the valid codes.

    Args:
        draft: says q.
        scores: from `draft`.
        cached: what the target says.
        trie: that of both.
    """
    depths = torch.where(cached.nodes >= 0, trie.depth_of(cached.nodes), -1)
    total = torch.zeros((), device=scores.state.device)
    for depth in range(trie.num_levels):
        here = depths == depth
        order = here.int().argsort(dim=1, descending=True, stable=True)[:, : int(here.sum(1).max())]
        nodes = torch.where(here, cached.nodes, NO_NODE).gather(1, order)
        children = trie.children(nodes, depth)
        valid = children >= 0
        log_p = cached.log_p.gather(1, order.unsqueeze(-1).expand(-1, -1, cached.log_p.shape[-1]))
        log_p = losses.normalised(log_p[..., : children.shape[-1]], valid)[valid]
        log_q = draft.next_log_probs(scores, children, depth)[valid]
        weights = cached.weights.gather(1, order).unsqueeze(-1).expand_as(children)[valid]
        total = total + (weights * log_p.exp() * (log_p - log_q)).sum()
    return total / len(scores.state)


def _permutation(size: int, seed: int, epoch: int) -> list[np.int64]:
    return list(np.random.default_rng([seed, epoch]).permutation(size))
