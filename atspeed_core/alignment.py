"""Draft alignment: the training of a draft by a method, one loop for all of them.

The language models start from the same initial draft and make the same number of updates: their total loss is
(1 - alpha) L_rec + alpha L_align (AtSpeed, section 3.2), and the methods differ in L_align alone.
"""

from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.drafters import DRAFTERS, Learner
from atspeed_core.methods import Method
from atspeed_core.settings import AlignDraft
from atspeed_core.training.alignment_batch import AlignmentBatch, AlignmentData
from atspeed_core.training.curves import Curves
from atspeed_core.training.loop import Schedule, epochs, train
from atspeed_core.training.recommendation_loss import recommendation_loss
from atspeed_core.training.topk_cache import CachedBatch
from atspeed_core.training.windows import epoch_windows, token_batch

Windows = list[NDArray[np.int64]]
TrainingBatch = tuple[list[np.int64], Windows | None]  # numbers of contexts; windows of the recommendation loss


def align(
    draft: Any,
    data: AlignmentData,
    method: Method,
    settings: AlignDraft,
    *,
    checkpoint: Path | None = None,
) -> Curves:
    """Train `draft`, of the kind that `method` names, in place; returns its learning curves.

    With `checkpoint`, a file, a stopped run resumes from its last state and ends with the same weights.
    """
    learner = DRAFTERS.get(method.drafter).learner(draft, settings)
    if learner is None:
        return Curves()

    def terms(batch: TrainingBatch, step: int) -> dict[str, Tensor]:
        rows, windows = batch
        rec = None if windows is None else recommendation_loss(learner.module, token_batch(windows, data.encoder))
        if method.loss is None:
            return _total(rec, {}, settings.alpha)
        cached = data.cache.batch(np.array(rows), data.trie)
        return _total(rec, alignment_terms(draft, data, method, settings, cached, step), settings.alpha)

    batches, label = _batches(data, method, settings, learner), f"aligning {method.name}"
    schedule = Schedule(learner.num_updates, learner.learning_rate, settings.weight_decay)
    return train(learner.module, batches, terms, schedule, label=label, checkpoint=checkpoint)


def alignment_terms(
    draft: Any,
    data: AlignmentData,
    method: Method,
    settings: AlignDraft,
    cached: CachedBatch,
    step: int,
) -> dict[str, Tensor]:
    """What the loss of `method`, which has one, returns for the contexts of `cached` in update number `step`."""
    assert method.loss is not None
    source = method.sequences(settings, step) if method.sequences else None
    return method.loss(AlignmentBatch(draft, data, cached, settings, source))


def _batches(
    data: AlignmentData, method: Method, settings: AlignDraft, learner: Learner
) -> Callable[[int], Iterator[TrainingBatch]]:
    """Batches from an update on. Each epoch shuffles contexts, and windows where there are any, with its own seeds."""
    size = len(data.cache) if method.learns_from_rollouts(settings) else data.cache.index.num_observed

    def windows(epoch: int) -> Windows:
        length = data.encoder.max_history + 1
        seed = [settings.seed, epoch]
        return epoch_windows(data.sequences, window_items=length, batch_size=learner.batch_size, seed=seed)

    def contexts(epoch: int) -> list[np.int64]:
        seed = [settings.seed, epoch, 1] if learner.learns_to_recommend else [settings.seed, epoch]
        return list(np.random.default_rng(seed).permutation(size))

    def batches(start: int) -> Iterator[TrainingBatch]:
        rows = epochs(contexts, learner.batch_size, start)
        both = epochs(windows, learner.batch_size, start) if learner.learns_to_recommend else repeat(None)
        return zip(rows, both, strict=False)  # endless, both of them

    return batches


def _total(recommendation: Tensor | None, alignment: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The terms of an update: "loss", which is minimised, and its parts."""
    if recommendation is None:
        return {"loss": alignment["alignment_loss"], **alignment}
    if not alignment:
        return {"loss": recommendation, "recommendation_loss": recommendation}
    total = (1 - alpha) * recommendation + alpha * alignment["alignment_loss"]
    return {"loss": total, "recommendation_loss": recommendation, **alignment}
