"""SASRec, a transformer over item ids that recommends the next item: a strong recommender without a language model.

Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018 (arXiv 1808.09781), with two later findings: the
loss is the cross-entropy over all items, not over one sampled negative, which by itself lifts it above its successors
(Klenitskiy and Vasilev, RecSys 2023, arXiv 2309.07602), and layers are normalised before, not after.
"""

import copy
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from atspeed_core.evaluation.baselines import (
    TUNING_K,
    TUNING_USERS,
    FloatArray,
    Histories,
    TrainingData,
    best_scored,
    mean_ndcg,
)
from atspeed_core.models.one_shot_draft import Block, padded_items
from atspeed_core.progress import track
from atspeed_core.settings import SasRec
from atspeed_core.training.windows import epoch_windows

NUM_LAYERS, NUM_HEADS = 2, 2
LEARNING_RATE = 5e-3  # at its peak, after a tenth of the updates
BATCH_SIZE = 64  # windows of an update
CHECKS = 20  # how often, in `max_updates`, the validation users are asked
PATIENCE = 5  # checks without a better one before training stops

log = logging.getLogger(__name__)


class NextItemModel(nn.Module):
    """Scores every item as the next one after a history; the items' embeddings are also the rows of the head."""

    def __init__(self, settings: SasRec, num_items: int, *, max_history: int) -> None:
        """A model with random weights."""
        super().__init__()
        self.max_history = max_history
        hidden, dropout = settings.hidden_size, settings.dropout
        self.items, self.places = nn.Embedding(num_items, hidden), nn.Embedding(max_history, hidden)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=hidden**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(hidden, NUM_HEADS, dropout) for _ in range(NUM_LAYERS))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, histories: Tensor) -> Tensor:
        """What is known after each item: states [B, H, hidden size] of `histories` [B, H], as `padded_items` gives."""
        known = histories >= 0
        length = histories.shape[1]
        place = torch.arange(length - 1, -1, -1, device=histories.device)  # counted from the end
        states = self.dropout(self.items(histories.clamp(min=0)) + self.places(place))
        causal = torch.ones(length, length, dtype=torch.bool, device=histories.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=histories.device)  # so that padding is no 0 / 0
        visible = ((causal & known[:, None, :]) | itself).unsqueeze(1)  # [B, 1, H, H]
        for block in self.blocks:
            states = block(states, states, visible)
        normed: Tensor = self.norm(states)
        return normed

    def scores(self, states: Tensor) -> Tensor:
        """[..., items] logits after `states` [..., hidden size]."""
        return functional.linear(states, self.items.weight)


@dataclass(frozen=True)
class SasRecSettings:
    """What the validation users chose.

    Attributes:
        updates: after how many of them they were served best.
        exclude_seen: items the user is known to have had are not recommended.
    """

    updates: int
    exclude_seen: bool


@dataclass(frozen=True)
class TrainedSasRec:
    """A trained model, what was chosen with it and its NDCG@10 on validation users."""

    model: NextItemModel
    chosen: SasRecSettings
    ndcg: float


@dataclass(frozen=True)
class SasRecData:
    """What SASRec is trained and tuned on.

    Attributes:
        training: which training user had which item.
        sequences: each training user's items as places in `training.items`, oldest first.
        known: all that is known of each validation user before the held-out items, oldest first.
        targets: their held-out items.
    """

    training: TrainingData
    sequences: list[NDArray[np.int64]]
    known: Histories
    targets: Histories

    @classmethod
    def build(cls, training: TrainingData, sequences: Histories, known: Histories, targets: Histories) -> "SasRecData":
        """From item ids; of the validation users `TUNING_USERS` at most, as for the other baselines."""
        places = [np.array(_places(training, sequence), dtype=np.int64) for sequence in sequences]
        return cls(training, places, known[:TUNING_USERS], targets[:TUNING_USERS])


def train_sasrec(
    data: SasRecData, settings: SasRec, *, max_history: int, seed: int, device: torch.device
) -> TrainedSasRec:
    """Train, and keep what has the best NDCG@10 on the validation users, with or without seen items.

    Training stops early where `PATIENCE` checks bring nothing better. Weights, order of the windows and dropout depend
    on `seed` alone.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NextItemModel(settings, len(data.training.items), max_history=max_history).to(device)
        best = _checked(model, data, updates=0)
        if all(len(sequence) < 2 for sequence in data.sequences):
            return best  # nothing follows anything
        every = max(1, settings.max_updates // CHECKS)
        for update in _updates(model, data.sequences, settings.max_updates, seed):
            if update % every == 0:
                best = max(best, _checked(model, data, updates=update), key=lambda one: one.ndcg)
            if update - best.chosen.updates >= PATIENCE * every:
                break
    log.info("sasrec: validation NDCG@%d %.4f after %d updates", TUNING_K, best.ndcg, best.chosen.updates)
    return best


def recommend_next(trained: TrainedSasRec, training: TrainingData, known: Histories, k: int) -> list[list[str]]:
    """The `k` items with the largest scores after each user's most recent items.

    Args:
        trained: from `train_sasrec`.
        training: the items it was trained for.
        known: what each user had, oldest first; popularity ranks for a user without an item that was trained on.
        k: length of the lists, at most the number of items.
    """
    return _lists(trained.model, training, known, trained.chosen.exclude_seen, k)


def _updates(
    model: NextItemModel, sequences: Sequence[NDArray[np.int64]], num_updates: int, seed: int
) -> Iterator[int]:
    """Train, and yield the number of updates done after each; the rate rises for a tenth of them, then falls to 0."""
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=num_updates + 1, pct_start=0.1, cycle_momentum=False
    )
    batches = _batches(sequences, model.max_history, seed)
    for update in track(range(1, num_updates + 1), "training sasrec"):
        model.train()
        optimizer.zero_grad()
        next_item_loss(model, next(batches)).backward()
        optimizer.step()
        schedule.step()
        yield update


def next_item_loss(model: NextItemModel, windows: Sequence[NDArray[np.int64]]) -> Tensor:
    """Mean cross-entropy over all items, of every item but the first of each window."""
    device = model.items.weight.device
    before = padded_items([window[:-1] for window in windows], max_history=model.max_history).to(device)
    after = padded_items([window[1:] for window in windows], max_history=model.max_history).to(device)
    wanted = after >= 0
    return functional.cross_entropy(model.scores(model(before)[wanted]), after[wanted])


def _checked(model: NextItemModel, data: SasRecData, *, updates: int) -> TrainedSasRec:
    """The model as it is now, with the better treatment of seen items."""
    model.eval()
    k = min(TUNING_K, len(data.training.items))
    ndcg = {
        exclude: mean_ndcg(_lists(model, data.training, data.known, exclude, k), data.targets, k)
        for exclude in (True, False)
    }
    exclude_seen = max(ndcg, key=ndcg.__getitem__)
    return TrainedSasRec(copy.deepcopy(model), SasRecSettings(updates, exclude_seen), ndcg[exclude_seen])


def _lists(
    model: NextItemModel, training: TrainingData, known: Histories, exclude_seen: bool, k: int
) -> list[list[str]]:
    def scores(users: Histories) -> FloatArray:
        places = [_places(training, history) for history in users]
        items = padded_items(places, max_history=model.max_history).to(model.items.weight.device)
        with torch.inference_mode():
            scored = model.scores(model(items)[:, -1])
            scored[(items < 0).all(1)] = 0
        return scored.double().cpu().numpy()

    return best_scored(training, known, exclude_seen, k, scores)


def _places(training: TrainingData, history: Sequence[str]) -> list[int]:
    """Columns of the items that were trained on; what nobody had yet has an embedding that means nothing."""
    return [training.trained_position[item] for item in history if item in training.trained_position]


def _batches(sequences: Sequence[NDArray[np.int64]], max_history: int, seed: int) -> Iterator[list[NDArray[np.int64]]]:
    """Windows of one epoch after the other."""
    for epoch in itertools.count():
        windows = epoch_windows(sequences, window_items=max_history + 1, batch_size=BATCH_SIZE, seed=[seed, epoch])
        for start in range(0, len(windows), BATCH_SIZE):
            yield windows[start : start + BATCH_SIZE]
