"""Drafters, one file each: a kind of draft, how it ranks prefixes and how a new one is built.

docs/extending.md shows how to add one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.proposals import PrefixModel
from atspeed_core.decoding.retrieval import UniformTree
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.models.champion import SCRATCH, Start
from atspeed_core.models.draft_folder import drafter_of
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.settings import AlignDraft
from atspeed_core.variants import Variants

LANGUAGE_MODEL = "language_model"  # the drafter of a folder that names none


class Prepared(Protocol):
    """A batch of requests, as `Recommender.prepare` returns it."""

    @property
    def items(self) -> Tensor:
        """[B, H] int64 the histories as places in the catalog, -1 on the left."""
        ...

    @property
    def ids(self) -> Tensor:
        """[B, S] int64 the same histories as left-padded prompts."""
        ...

    @property
    def trie(self) -> DeviceTrie:
        """What each request may be recommended."""
        ...

    def tree(self, model: CodeModel) -> ScoredTree:
        """A tree behind the prompts."""
        ...


@dataclass(frozen=True)
class DraftInputs:
    """What a new draft is built from.

    Attributes:
        target: folder of the target.
        champion: folder of the champion (stage warm_start).
        encoder: of the target's prompts, with the catalog.
        device: where the draft is trained.
    """

    target: Path
    champion: Path
    encoder: PromptEncoder
    device: torch.device


@dataclass(frozen=True)
class Learner:
    """What training changes, and by how many updates.

    Attributes:
        module: holds the weights.
        num_updates: number of updates.
        batch_size: contexts per update.
        learning_rate: its peak.
        learns_to_recommend: whether its loss has the recommendation loss as a part; `module` is a language model then.
    """

    module: nn.Module
    num_updates: int
    batch_size: int
    learning_rate: float
    learns_to_recommend: bool


class Drafter(ABC):
    """One kind of draft. The methods get a draft of this kind.

    Attributes:
        name: that of its file; config.json in a draft's folder has it as "drafter" (a language model: no such entry).
        summary: one line.
        draft_type: of the drafts in memory.
        reads_items: whether a draft's input is histories as items; else prompts.
        drafts_in_rounds: whether a draft can draft anew from beams that the target chose, as the published scheme does.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    draft_type: ClassVar[type]
    reads_items: ClassVar[bool] = False
    drafts_in_rounds: ClassVar[bool] = False

    @abstractmethod
    def load(self, folder: Path, encoder: PromptEncoder, device: torch.device, dtype: torch.dtype) -> Any:
        """The draft saved in `folder`, in evaluation mode.

        Raises:
            UserError: it is missing, damaged, or does not fit `encoder`, the target's.
        """

    @abstractmethod
    def prefixes(self, draft: Any, request: Prepared) -> PrefixModel:
        """What the draft says about prefixes for these requests."""

    def tree(self, draft: Any, request: Prepared) -> ScoredTree | UniformTree:
        """The same for the published scheme: a tree that scores any nodes. Only where `drafts_in_rounds`."""
        raise NotImplementedError

    def sampling_seed(self, draft: Any) -> int | None:
        """Seed with which the draft samples nodes even where the best lists are searched; None: it takes its best."""
        return None

    def num_parameters(self, draft: Any) -> int:
        """Number of weights."""
        return 0

    def is_fixed_program(self, draft: Any) -> bool:
        """Whether drafting consists of operations on tensors alone, so that a CUDA graph can replay it."""
        return False

    def start(self, part: str, inputs: DraftInputs, settings: AlignDraft) -> Start:
        """From which weights the training starts; `part`: where the champion has such a draft ("drafts/METHOD")."""
        return Start(None, SCRATCH, "nothing is trained")

    @abstractmethod
    def build(self, start: Start, inputs: DraftInputs, settings: AlignDraft) -> Any:
        """A draft to be trained, on `inputs.device`."""

    def learner(self, draft: Any, settings: AlignDraft) -> Learner | None:
        """How the draft is trained; None: nothing is."""
        return None

    @abstractmethod
    def save(self, folder: Path, draft: Any, inputs: DraftInputs, extra_files: Mapping[str, str]) -> None:
        """Write the draft and `extra_files` (name -> content) to `folder`, all or nothing."""


DRAFTERS = Variants(__name__, Drafter, "drafter")  # type: ignore[type-abstract]  # only looked for, never called


def drafter_for(draft: object) -> Drafter:
    """The drafter whose kind `draft` is."""
    return next(drafter for drafter in DRAFTERS.all().values() if isinstance(draft, drafter.draft_type))


def drafter_in(folder: str | Path) -> Drafter:
    """The drafter of the draft (or target) saved in `folder`.

    Raises:
        UserError: config.json names none that there is.
    """
    return DRAFTERS.get(drafter_of(folder) or LANGUAGE_MODEL)
