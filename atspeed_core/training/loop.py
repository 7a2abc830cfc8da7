"""The training loop of every draft: updates with AdamW on a warm-up and cosine schedule, checkpoints, learning curves.

A run that was stopped resumes from its last checkpoint and ends with the same weights.
"""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from atspeed_core.files import replacing
from atspeed_core.progress import track
from atspeed_core.training.curves import Curves

logger = logging.getLogger(__name__)

CHECKPOINTS_PER_RUN = 5
WARMUP = 0.05  # share of the updates
BETAS = (0.9, 0.98)
MAX_GRADIENT_NORM = 1.0

Batch = TypeVar("Batch")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Schedule:
    """How many updates a training makes, and how large.

    Attributes:
        num_updates: number of updates.
        learning_rate: its peak.
        weight_decay: of AdamW.
    """

    num_updates: int
    learning_rate: float
    weight_decay: float


def train(
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    terms: Callable[[Batch, int], dict[str, Tensor]],
    schedule: Schedule,
    *,
    label: str,
    checkpoint: Path | None = None,
) -> Curves:
    """Train `model` in place; returns its learning curves.

    Args:
        model: left in evaluation mode.
        batches: given the number of the first update, the batches from that update on.
        terms: of a batch and the number of the update: "loss", with gradient, and other values for the curves.
        schedule: number and size of the updates.
        label: of the progress bar.
        checkpoint: file of the state, written `CHECKPOINTS_PER_RUN` times; where it exists, training resumes from it.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=BETAS
    )
    curves = Curves()
    start = _resume(checkpoint, model, optimizer, curves)
    remaining = batches(start)
    model.train()
    for step in track(range(start, schedule.num_updates), label, total=schedule.num_updates - start):
        values = terms(next(remaining), step)
        _update(model, optimizer, values["loss"], learning_rate_at(step, schedule.num_updates, schedule.learning_rate))
        curves.add(step, {name: float(value.detach()) for name, value in values.items()})
        if checkpoint and (step + 1) % max(1, schedule.num_updates // CHECKPOINTS_PER_RUN) == 0:
            _save(checkpoint, model, optimizer, curves, step + 1)
    model.eval()
    return curves


def learning_rate_at(step: int, num_updates: int, peak: float) -> float:
    """Learning rate of update number `step`: a linear warm-up over the first 5 %, then a cosine to 0."""
    warmup = min(1.0, (step + 1) / max(1.0, WARMUP * num_updates))
    return peak * warmup * 0.5 * (1 + math.cos(math.pi * step / num_updates))


def epochs(epoch_items: Callable[[int], list[Item]], batch_size: int, start: int) -> Iterator[list[Item]]:
    """Batches of one epoch after the other, from batch number `start` on.

    Args:
        epoch_items: the items of an epoch, in order, given its number.
        batch_size: items per batch; the last batch of an epoch may have fewer.
        start: batches to skip.
    """
    epoch, number = 0, 0
    while True:
        items = epoch_items(epoch)
        for i in range(0, len(items), batch_size):
            if number >= start:
                yield items[i : i + batch_size]
            number += 1
        epoch += 1


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, curves: Curves, step: int) -> None:
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "curves": curves.rows}
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _resume(path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, curves: Curves) -> int:
    """Restore the state in `path`; returns the number of the next update."""
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location=next(model.parameters()).device)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    curves.rows.extend(tuple(row) for row in state["curves"])
    logger.info("resuming after update %d of %s", state["step"], path)
    return int(state["step"])
