"""Drafter dare: retrieval drafting, all valid codes after a prefix are equally probable (`decoding.retrieval`)."""

from collections.abc import Mapping
from pathlib import Path

import torch

from atspeed_core.decoding.retrieval import UniformTree
from atspeed_core.drafters import Drafter, DraftInputs, Prepared
from atspeed_core.models.champion import Start
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.models.retrieval_draft import RetrievalDraft, load_retrieval, save_retrieval
from atspeed_core.settings import AlignDraft


class Retrieval(Drafter):
    """See `Drafter`."""

    name = "dare"
    summary = "Retrieval drafting: valid codes, sampled uniformly."
    draft_type = RetrievalDraft
    reads_items = True
    drafts_in_rounds = True

    def load(self, folder: Path, encoder: PromptEncoder, device: torch.device, dtype: torch.dtype) -> RetrievalDraft:
        """See `Drafter`."""
        return load_retrieval(folder)

    def prefixes(self, draft: RetrievalDraft, request: Prepared) -> UniformTree:
        """See `Drafter`."""
        return self.tree(draft, request)

    def tree(self, draft: RetrievalDraft, request: Prepared) -> UniformTree:
        """See `Drafter`."""
        return UniformTree(request.trie, len(request.ids))

    def sampling_seed(self, draft: RetrievalDraft) -> int:
        """See `Drafter`: a uniform distribution has no best nodes."""
        return draft.seed

    def build(self, start: Start, inputs: DraftInputs, settings: AlignDraft) -> RetrievalDraft:
        """See `Drafter`."""
        return RetrievalDraft(settings.seed)

    def save(self, folder: Path, draft: RetrievalDraft, inputs: DraftInputs, extra_files: Mapping[str, str]) -> None:
        """See `Drafter`."""
        save_retrieval(folder, draft, extra_files=dict(extra_files))


DRAFTER = Retrieval()
