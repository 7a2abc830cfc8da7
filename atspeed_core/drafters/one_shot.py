"""Drafter one_shot: a model that reads a history once and then scores every prefix (`models.one_shot_draft`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.drafters import Drafter, DraftInputs, Learner, Prepared
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.champion import SCRATCH, Start, choose_start
from atspeed_core.models.one_shot_draft import OneShotDraft, build_from, load_one_shot, save_one_shot, shape_difference
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.settings import AlignDraft


@runtime_checkable
class PrefixScorer(Protocol):
    """A draft that reads a history once for all prefixes: a `OneShotDraft`, or one that is timed."""

    max_history: int

    def __call__(self, items: Tensor) -> Any:
        """What `next_log_probs` has to know after the histories `items` [B, H]."""
        ...

    def next_log_probs(self, scores: Any, children: Tensor, depth: int) -> Tensor:
        """Log-probabilities [B, n, M] of `children` of nodes of one depth, given their parents."""
        ...


@dataclass(frozen=True)
class OneShotPrefixes:
    """A one-shot draft after its single small forward.

    Attributes:
        draft: the draft.
        trie: narrowed to what the requests may be recommended.
        scores: what the draft knows after the histories.
    """

    draft: PrefixScorer
    trie: DeviceTrie
    scores: Any

    def next_log_probs(self, nodes: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """See `PrefixModel`."""
        children = self.trie.children(nodes, depth)
        return children, self.draft.next_log_probs(self.scores, children, depth)


class OneShotDrafter(Drafter):
    """See `Drafter`."""

    name = "one_shot"
    summary = "A small transformer over the items of the history; one forward scores all prefixes."
    draft_type = PrefixScorer
    reads_items = True

    def load(self, folder: Path, encoder: PromptEncoder, device: torch.device, dtype: torch.dtype) -> OneShotDraft:
        """See `Drafter`; in float32 whatever `dtype` is."""
        return load_one_shot(folder, encoder.catalog, device=device)

    def prefixes(self, draft: PrefixScorer, request: Prepared) -> OneShotPrefixes:
        """See `Drafter`."""
        return OneShotPrefixes(draft, request.trie, draft(request.items[:, -draft.max_history :]))

    def num_parameters(self, draft: PrefixScorer) -> int:
        """See `Drafter`."""
        return sum(weight.numel() for weight in draft.parameters()) if isinstance(draft, nn.Module) else 0

    def is_fixed_program(self, draft: PrefixScorer) -> bool:
        """See `Drafter`: not one that is timed."""
        return isinstance(draft, nn.Module)

    def start(self, part: str, inputs: DraftInputs, settings: AlignDraft) -> Start:
        """See `Drafter`."""
        start = choose_start(inputs.champion, part, inputs.encoder.catalog, architecture=None)
        if start.folder is None:
            return start
        differing = shape_difference(start.folder, settings.one_shot, max_history=inputs.encoder.max_history)
        reason = f"the champion's {part} has another shape: {differing}"
        return Start(None, SCRATCH, reason) if differing else start

    def build(self, start: Start, inputs: DraftInputs, settings: AlignDraft) -> OneShotDraft:
        """See `Drafter`."""
        shape, catalog, max_history = settings.one_shot, inputs.encoder.catalog, inputs.encoder.max_history
        if start.folder is None:
            draft = OneShotDraft(shape, catalog, max_history=max_history, seed=settings.seed)
        else:
            earlier = Catalog.load(inputs.champion / "identifiers" / "identifiers.json")
            draft = build_from(start.folder, earlier, shape, catalog, max_history=max_history, seed=settings.seed)
        return draft.to(inputs.device)

    def learner(self, draft: OneShotDraft, settings: AlignDraft) -> Learner:
        """See `Drafter`."""
        own = settings.one_shot
        return Learner(draft, own.num_updates, own.batch_size, own.learning_rate, False)

    def save(self, folder: Path, draft: OneShotDraft, inputs: DraftInputs, extra_files: Mapping[str, str]) -> None:
        """See `Drafter`."""
        save_one_shot(folder, draft, inputs.encoder.catalog, extra_files=dict(extra_files))


DRAFTER = OneShotDrafter()
