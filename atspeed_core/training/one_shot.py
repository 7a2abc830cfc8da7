"""Training of the one-shot drafter: distillation of the target's cached top-K lists.

Loss: (1 - alpha) L_rec + alpha L_align. L_rec is the cross-entropy of the real next item's identifier, L_align the
forward KL divergence from the target to the draft over the children of every cached prefix.
"""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.files import replacing
from atspeed_core.models.one_shot import OneShotDraft, padded_items
from atspeed_core.progress import track
from atspeed_core.settings import AlignDraft
from atspeed_core.training import losses
from atspeed_core.training.alignment import CHECKPOINTS_A_RUN, AlignmentData
from atspeed_core.training.curves import Curves
from atspeed_core.training.topk_cache import CachedBatch

logger = logging.getLogger(__name__)
WARMUP = 0.05  # share of the updates
SECONDS = "training_seconds"


def train_one_shot(
    draft: OneShotDraft, data: AlignmentData, settings: AlignDraft, *, checkpoint: Path | None = None
) -> Curves:
    """Train `draft` in place; returns its learning curves, with the time spent so far as `training_seconds`.

    With `checkpoint`, a file, a stopped run goes on from its last state and ends with the same weights.
    """
    plan = settings.one_shot
    optimizer = torch.optim.AdamW(
        draft.parameters(), lr=plan.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    curves = Curves()
    start, seconds = _resume(checkpoint, draft, optimizer, curves)
    batches = _batches(len(data.cache), plan.batch_size, settings.seed, start)
    draft.train()
    began = time.monotonic() - seconds
    for step in track(range(start, plan.num_updates), "training one_shot", total=plan.num_updates - start):
        parts = one_shot_losses(draft, data, data.cache.batch(next(batches), data.trie), alpha=settings.alpha)
        _update(draft, optimizer, parts["loss"], _rate(step, plan.num_updates, plan.learning_rate))
        values = {name: float(value.detach()) for name, value in parts.items()}
        curves.add(step, values | {SECONDS: time.monotonic() - began})
        if checkpoint and (step + 1) % max(1, plan.num_updates // CHECKPOINTS_A_RUN) == 0:
            _save(checkpoint, draft, optimizer, curves, step + 1)
    draft.eval()
    return curves


def one_shot_losses(
    draft: OneShotDraft, data: AlignmentData, cached: CachedBatch, *, alpha: float
) -> dict[str, Tensor]:
    """The losses of one batch of contexts, with gradient: `loss`, `recommendation_loss`, `alignment_loss`."""
    device, trie = data.trie.token.device, data.encoder.catalog.trie
    cuts = [(data.sequences[context.user], context.position) for context in cached.contexts]
    items = padded_items([sequence[:end] for sequence, end in cuts], max_history=draft.max_history)
    following = np.array([sequence[end] for sequence, end in cuts])
    leaves = torch.from_numpy(trie.first_leaf + trie.leaf_of_item[following])
    log_q = node_log_probs(draft, items.to(device))
    rec = -log_q.gather(1, leaves.to(device).unsqueeze(1)).mean()
    alignment = distillation(log_q, cached, data.trie)
    total = (1 - alpha) * rec + alpha * alignment
    return {"loss": total, "recommendation_loss": rec, "alignment_loss": alignment}


def node_log_probs(draft: OneShotDraft, items: Tensor) -> Tensor:
    """[B, nodes] float32 log-probability of every node of the trie, the root included, after `items` [B, H]."""
    levels = draft.prefix_log_probs(items)
    return torch.cat([torch.zeros_like(levels[0][:, :1]), *levels], dim=1)


def distillation(log_q: Tensor, cached: CachedBatch, trie: DeviceTrie) -> Tensor:
    """Mean over contexts of the sum over cached prefixes of weight(prefix) KL(p(.|prefix) || q(.|prefix)).

    The weight is the share of the target's K sequences that pass a prefix, p is normalised over the valid codes.

    Args:
        log_q: [B, nodes] the draft's log-probabilities of the trie's nodes.
        cached: what the target says.
        trie: that of both.
    """
    children = trie.children(cached.nodes)
    rows, prefixes, codes = torch.nonzero(children >= 0, as_tuple=True)
    log_p = losses.normalised(cached.log_p, children >= 0)[rows, prefixes, codes]
    step = log_q[rows, children[rows, prefixes, codes]] - log_q[rows, cached.nodes[rows, prefixes]]
    return (cached.weights[rows, prefixes] * log_p.exp() * (log_p - step)).sum() / len(log_q)


def _update(draft: OneShotDraft, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
    optimizer.step()


def _rate(step: int, num_updates: int, peak: float) -> float:
    """Learning rate of an update: a linear warm-up, then a cosine to 0."""
    return (
        peak
        * min(1.0, (step + 1) / max(1.0, WARMUP * num_updates))
        * 0.5
        * (1 + math.cos(math.pi * step / num_updates))
    )


def _batches(size: int, batch_size: int, seed: int, start: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of contexts, epoch after epoch in a new order, from batch number `start` on."""
    a_epoch = -(-size // batch_size)
    while True:
        epoch, number = divmod(start, a_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(size)
        yield order[number * batch_size : (number + 1) * batch_size]
        start += 1


def _save(path: Path, draft: OneShotDraft, optimizer: torch.optim.Optimizer, curves: Curves, step: int) -> None:
    state = {"step": step, "model": draft.state_dict(), "optimizer": optimizer.state_dict(), "curves": curves.rows}
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _resume(
    path: Path | None, draft: OneShotDraft, optimizer: torch.optim.Optimizer, curves: Curves
) -> tuple[int, float]:
    """The update to go on with and the seconds that were spent before it."""
    if path is None or not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True, map_location=next(draft.parameters()).device)
    draft.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    curves.rows.extend(tuple(row) for row in state["curves"])
    logger.info("going on after update %d of %s", state["step"], path)
    return int(state["step"]), next(value for _, name, value in reversed(curves.rows) if name == SECONDS)
