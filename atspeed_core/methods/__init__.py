"""Alignment methods, one file each: a way to obtain a draft.

docs/extending.md shows how to add one, docs/methods.md explains each. Importing them imports no torch: a loss imports
what it needs when it is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atspeed_core.variants import Variants

if TYPE_CHECKING:
    from torch import Tensor

    from atspeed_core.settings import AlignDraft
    from atspeed_core.training.alignment_batch import AlignmentBatch, SequenceSource


@dataclass(frozen=True, kw_only=True)
class Method:
    """One alignment method.

    Attributes:
        name: that of its file.
        order: position in lists and tables.
        summary: one line, which also describes the draft in dvc.yaml.
        drafter: the kind of draft that it trains: name of one in `atspeed_core.drafters`.
        sequences: which sequences a context is aligned along in one update, by the settings and the number of the
            update: the target's cached ones, the item that came next, or the draft's own beams. None: along none.
        loss: a batch of contexts -> "alignment_loss", a scalar with gradient, and further scalars for the learning
            curves. None: the draft is not aligned.
        paper_row: its name in the paper's tables; None: it is not in the paper.
        wired: whether dvc.yaml trains and evaluates it unless other methods are asked for.
    """

    name: str
    order: int
    summary: str
    drafter: str
    sequences: Callable[[AlignDraft, int], SequenceSource] | None
    loss: Callable[[AlignmentBatch], dict[str, Tensor]] | None
    paper_row: str | None = None
    wired: bool = False

    def learns_from_rollouts(self, settings: AlignDraft) -> bool:
        """Whether rollouts are among its contexts: not where it aligns along items that came next, which they lack."""
        along = self.sequences
        return along is None or all(along(settings, step) != "ground_truth" for step in range(settings.num_updates))


METHODS = Variants(__name__, Method, "method", order=lambda method: method.order)


def wired_methods() -> list[str]:
    """Names of the methods that dvc.yaml trains and evaluates unless others are asked for."""
    return [method.name for method in METHODS.all().values() if method.wired]


def top_k(settings: AlignDraft, step: int) -> SequenceSource:
    """Along the target's cached sequences, in every update."""
    return "top_k"


def next_item(settings: AlignDraft, step: int) -> SequenceSource:
    """Along the item that came next, in every update."""
    return "ground_truth"


def as_set(settings: AlignDraft, step: int) -> SequenceSource:
    """Along what the setting `sequences` names, in every update."""
    return settings.sequences
