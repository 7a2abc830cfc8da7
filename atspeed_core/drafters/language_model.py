"""Drafter language_model: a small language model, one forward pass per level (AtSpeed, section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from atspeed_core.decoding.code_model import CodeModel, load_code_model
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.drafters import LANGUAGE_MODEL, Drafter, DraftInputs, Learner, Prepared
from atspeed_core.errors import UserError
from atspeed_core.models.building import (
    build_model,
    load_base_draft,
    load_instruction,
    load_prompt_encoder,
    save_model,
)
from atspeed_core.models.champion import Start, choose_start
from atspeed_core.models.inherited import build_from
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.settings import AlignDraft


@dataclass(frozen=True)
class AutoregressivePrefixes:
    """What a language model says about prefixes, scored level by level."""

    tree: ScoredTree

    @property
    def trie(self) -> DeviceTrie:
        """See `PrefixModel`."""
        return self.tree.trie

    def next_log_probs(self, nodes: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """See `PrefixModel`."""
        self.tree.score_new(nodes[:, :0] if depth == 0 else nodes)
        return self.tree.next_log_probs(nodes, depth)


class LanguageModel(Drafter):
    """See `Drafter`."""

    name = LANGUAGE_MODEL
    summary = "A small language model, one forward pass per level."
    draft_type = CodeModel
    drafts_in_rounds = True

    def load(self, folder: Path, encoder: PromptEncoder, device: torch.device, dtype: torch.dtype) -> CodeModel:
        """See `Drafter`."""
        if load_prompt_encoder(folder, encoder.catalog, max_history=encoder.max_history).prefix != encoder.prefix:
            raise UserError(f"{folder}: the draft's prompt differs from the target's; train it from this target")
        return load_code_model(folder, encoder, device, dtype)

    def prefixes(self, draft: CodeModel, request: Prepared) -> AutoregressivePrefixes:
        """See `Drafter`."""
        return AutoregressivePrefixes(request.tree(draft))

    def tree(self, draft: CodeModel, request: Prepared) -> ScoredTree:
        """See `Drafter`."""
        return request.tree(draft)

    def num_parameters(self, draft: CodeModel) -> int:
        """See `Drafter`."""
        return int(draft.model.num_parameters())

    def is_fixed_program(self, draft: CodeModel) -> bool:
        """See `Drafter`: not a model that stands in for another, or that is timed."""
        return type(draft) is CodeModel

    def start(self, part: str, inputs: DraftInputs, settings: AlignDraft) -> Start:
        """See `Drafter`."""
        shape, base_model = settings.architecture, settings.base_model
        return choose_start(inputs.champion, part, inputs.encoder.catalog, architecture=shape, base_model=base_model)

    def build(self, start: Start, inputs: DraftInputs, settings: AlignDraft) -> CodeModel:
        """See `Drafter`."""
        model = _initial(settings, start, _tokenizer(inputs))
        torch.nn.Module.to(model, inputs.device)
        return CodeModel(model, inputs.encoder.code_ids.to(inputs.device))

    def learner(self, draft: CodeModel, settings: AlignDraft) -> Learner:
        """See `Drafter`."""
        return Learner(draft.model, settings.num_updates, settings.batch_size, settings.learning_rate, True)

    def save(self, folder: Path, draft: CodeModel, inputs: DraftInputs, extra_files: Mapping[str, str]) -> None:
        """See `Drafter`."""
        instruction = load_instruction(inputs.target)
        save_model(folder, draft.model, _tokenizer(inputs), instruction=instruction, extra_files=dict(extra_files))


def _tokenizer(inputs: DraftInputs) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(inputs.target, local_files_only=True)


def _initial(settings: AlignDraft, start: Start, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The language model that the drafts start from, with the champion's weights where they fit."""
    if settings.architecture is None:
        assert settings.base_model is not None
        return load_base_draft(str(start.folder or settings.base_model), tokenizer)
    if start.folder is None:
        return build_model(settings.architecture, tokenizer, seed=settings.seed)
    return build_from(start.folder, settings.architecture, tokenizer, seed=settings.seed)


DRAFTER = LanguageModel()
