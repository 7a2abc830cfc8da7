"""Draft alignment: every method starts from the same initial draft and makes the same number of updates.

Total loss (1 - alpha) L_rec + alpha L_align (AtSpeed, section 3.2); methods differ in L_align alone, `sft` has none.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import beam_search
from atspeed_core.files import replacing
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.progress import track
from atspeed_core.settings import AlignDraft, Method
from atspeed_core.training import losses
from atspeed_core.training.curves import Curves
from atspeed_core.training.prefix_trees import kth_path, prefix_tree
from atspeed_core.training.recommendation_loss import recommendation_loss
from atspeed_core.training.topk_cache import CachedBatch, TopkCache
from atspeed_core.training.windows import epoch_windows, token_batch

logger = logging.getLogger(__name__)
CHECKPOINTS_A_RUN = 5
WARMUP = 0.05  # share of the updates


@dataclass(frozen=True)
class Aligned:
    """What the alignment loss of one batch of contexts is computed from; shapes as in `losses`."""

    log_q: Tensor
    log_p: Tensor
    log_p_kth: Tensor
    weights: Tensor


AlignmentLoss = Callable[[Aligned, AlignDraft], Tensor]

T = TypeVar("T")

ALIGNMENT_LOSSES: dict[Method, AlignmentLoss | None] = {
    "sft": None,
    "atspeed_s": lambda a, s: losses.atspeed_s(a.log_q, a.log_p, a.log_p_kth, a.weights, beta=s.beta),
    "atspeed_r": lambda a, s: losses.atspeed_r(a.log_q, a.log_p, a.weights),
}
OWN_BEAMS: set[Method] = {"atspeed_s"}  # methods whose Y mixes in the draft's own beams


@dataclass(frozen=True)
class AlignmentData:
    """What all methods train on.

    Attributes:
        sequences: training items of each user, as places in the catalog.
        cache: the target's top-K sequences.
        encoder: of the prompts.
        trie: on the training device.
        target: scores the draft's own beams.
    """

    sequences: Sequence[NDArray[np.int64]]
    cache: TopkCache
    encoder: PromptEncoder
    trie: DeviceTrie
    target: CodeModel


def align(
    draft: CodeModel, data: AlignmentData, method: Method, settings: AlignDraft, *, checkpoint: Path | None = None
) -> Curves:
    """Train `draft` in place; returns its learning curves.

    With `checkpoint`, a file, a stopped run goes on from its last state and ends with the same weights.
    """
    optimizer = torch.optim.AdamW(
        draft.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    curves = Curves()
    start = _resume(checkpoint, draft, optimizer, curves)
    windows = _forever(lambda epoch: _epoch(data, settings, epoch), settings.batch_size, start)
    contexts = _forever(lambda epoch: _permutation(len(data.cache), settings.seed, epoch), settings.batch_size, start)
    draft.model.train()
    for step in track(range(start, settings.num_updates), f"aligning {method}", total=settings.num_updates - start):
        parts = _losses(draft, data, method, settings, next(windows), next(contexts), step)
        _update(draft, optimizer, parts["loss"], settings, step)
        curves.add(step, {name: float(value.detach()) for name, value in parts.items()})
        if checkpoint and (step + 1) % max(1, settings.num_updates // CHECKPOINTS_A_RUN) == 0:
            _save(checkpoint, draft, optimizer, curves, step + 1)
    draft.model.eval()
    return curves


def _losses(
    draft: CodeModel,
    data: AlignmentData,
    method: Method,
    settings: AlignDraft,
    windows: list[NDArray[np.int64]],
    rows: list[np.int64],
    step: int,
) -> dict[str, Tensor]:
    rec = recommendation_loss(draft.model, token_batch(windows, data.encoder))
    align_loss = ALIGNMENT_LOSSES[method]
    if align_loss is None:
        return {"loss": rec, "recommendation_loss": rec}
    own = method in OWN_BEAMS and _turn_of_own_beams(step, settings.lambda_)
    aligned = aligned_batch(draft, data, data.cache.batch(np.array(rows), data.trie), own_beams=own)
    alignment = align_loss(aligned, settings)
    total = (1 - settings.alpha) * rec + settings.alpha * alignment
    return {"loss": total, "recommendation_loss": rec, "alignment_loss": alignment}


def aligned_batch(draft: CodeModel, data: AlignmentData, cached: CachedBatch, *, own_beams: bool) -> Aligned:
    """Distributions of draft (with gradient) and target along the target's or the draft's own top-K sequences."""
    histories = [data.sequences[c.user][: c.position][-data.encoder.max_history :] for c in cached.contexts]
    prompts, mask = (t.to(data.trie.device) for t in data.encoder.encode_positions(histories))
    nodes, weights, log_p = cached.nodes, cached.weights, cached.log_p
    if own_beams:
        leaves = _own_beams(draft, data.trie, prompts, mask, cached.leaves.shape[1])
        nodes, weights = (tree := prefix_tree(leaves, data.trie)).nodes, tree.weights
        log_p = _target_log_probs(data, prompts, mask, nodes)
    tree_q = ScoredTree(draft, data.trie, prompts, mask)
    tree_q.score(nodes)
    children, log_q = tree_q.next_log_probs(nodes)
    valid = children >= 0
    return Aligned(
        losses.normalised(log_q, valid),
        losses.normalised(log_p, valid),
        _kth_log_probs(cached, nodes, data.trie),
        weights,
    )


@torch.inference_mode()
def _own_beams(draft: CodeModel, trie: DeviceTrie, prompts: Tensor, mask: Tensor, k: int) -> Tensor:
    draft.model.eval()
    leaves = beam_search(ScoredTree(draft, trie, prompts, mask), k).leaves
    draft.model.train()
    return leaves


@torch.inference_mode()
def _target_log_probs(data: AlignmentData, prompts: Tensor, mask: Tensor, nodes: Tensor) -> Tensor:
    tree = ScoredTree(data.target, data.trie, prompts, mask)
    tree.score(nodes)
    return tree.next_log_probs(nodes)[1]


def _kth_log_probs(cached: CachedBatch, nodes: Tensor, trie: DeviceTrie) -> Tensor:
    """[B, T] the target's log-probability of the code of its K-th best sequence at the level after each node."""
    children = trie.children(cached.nodes)
    log_p = losses.normalised(cached.log_p, children >= 0)
    path = kth_path(cached.leaves, trie)  # [B, L]
    on_path = children.unsqueeze(-1) == path[:, None, None, :]  # [B, T, M, L]
    steps = torch.where(on_path, log_p.unsqueeze(-1), 0.0).sum((1, 2))  # [B, L]
    return steps.gather(1, trie.depth_of(nodes))


def _turn_of_own_beams(step: int, share: float) -> bool:
    """Whether update number `step` takes the draft's own beams, so that `share` of all do, evenly spread."""
    return math.floor((step + 1) * share) > math.floor(step * share)


def learning_rate_at(step: int, num_updates: int, peak: float) -> float:
    """Learning rate of update number `step`: a linear warm-up over the first 5 %, then a cosine to 0."""
    warmup = min(1.0, (step + 1) / max(1.0, WARMUP * num_updates))
    return peak * warmup * 0.5 * (1 + math.cos(math.pi * step / num_updates))


def _update(draft: CodeModel, optimizer: torch.optim.Optimizer, loss: Tensor, settings: AlignDraft, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, settings.num_updates, settings.learning_rate)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(draft.model.parameters(), 1.0)
    optimizer.step()


def _epoch(data: AlignmentData, settings: AlignDraft, epoch: int) -> list[NDArray[np.int64]]:
    return epoch_windows(
        data.sequences,
        window_items=data.encoder.max_history + 1,
        batch_size=settings.batch_size,
        seed=[settings.seed, epoch],
    )


def _permutation(size: int, seed: int, epoch: int) -> list[np.int64]:
    return list(np.random.default_rng([seed, epoch, 1]).permutation(size))


def _forever(epoch_items: Callable[[int], list[T]], batch_size: int, start: int) -> Iterator[list[T]]:
    """Batches of one epoch after the other, from batch number `start` on."""
    epoch, number = 0, 0
    while True:
        items = epoch_items(epoch)
        for i in range(0, len(items), batch_size):
            if number >= start:
                yield items[i : i + batch_size]
            number += 1
        epoch += 1


def _save(path: Path, draft: CodeModel, optimizer: torch.optim.Optimizer, curves: Curves, step: int) -> None:
    state = {
        "step": step,
        "model": draft.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "curves": curves.rows,
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _resume(path: Path | None, draft: CodeModel, optimizer: torch.optim.Optimizer, curves: Curves) -> int:
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location=draft.code_ids.device)
    draft.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    curves.rows.extend(tuple(row) for row in state["curves"])
    logger.info("going on after update %d of %s", state["step"], path)
    return int(state["step"])
