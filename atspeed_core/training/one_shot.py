"""Training of the one-shot draft: forward KL divergence from the target to it over the children of cached prefixes."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.files import replacing
from atspeed_core.models.one_shot import OneShotDraft, Scores, padded_items
from atspeed_core.progress import track
from atspeed_core.settings import AlignDraft
from atspeed_core.training import losses
from atspeed_core.training.alignment import CHECKPOINTS_A_RUN, AlignmentData, learning_rate_at
from atspeed_core.training.curves import Curves
from atspeed_core.training.topk_cache import CachedBatch

logger = logging.getLogger(__name__)


def train_one_shot(
    draft: OneShotDraft, data: AlignmentData, settings: AlignDraft, *, checkpoint: Path | None = None
) -> Curves:
    """Train `draft` in place; returns its learning curves.

    With `checkpoint`, a file, a stopped run goes on from its last state and ends with the same weights.
    """
    plan = settings.one_shot
    optimizer = torch.optim.AdamW(
        draft.parameters(), lr=plan.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    curves = Curves()
    start = _resume(checkpoint, draft, optimizer, curves)
    batches = _batches(len(data.cache), plan.batch_size, settings.seed, start)
    draft.train()
    for step in track(range(start, plan.num_updates), "training one_shot", total=plan.num_updates - start):
        loss = one_shot_loss(draft, data, data.cache.batch(next(batches), data.trie))
        _update(draft, optimizer, loss, learning_rate_at(step, plan.num_updates, plan.learning_rate))
        curves.add(step, {"loss": float(loss.detach()), "alignment_loss": float(loss.detach())})
        if checkpoint and (step + 1) % max(1, plan.num_updates // CHECKPOINTS_A_RUN) == 0:
            _save(checkpoint, draft, optimizer, curves, step + 1)
    draft.eval()
    return curves


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


def _update(draft: OneShotDraft, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
    optimizer.step()


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


def _resume(path: Path | None, draft: OneShotDraft, optimizer: torch.optim.Optimizer, curves: Curves) -> int:
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location=next(draft.parameters()).device)
    draft.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    curves.rows.extend(tuple(row) for row in state["curves"])
    logger.info("going on after update %d of %s", state["step"], path)
    return int(state["step"])
