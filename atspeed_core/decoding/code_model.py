"""A language model as decoding sees it: tokens behind a cache in, log-probabilities of the catalog's codes out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from atspeed_core.decoding.llama import LlamaDecoder
from atspeed_core.models.building import load_model
from atspeed_core.models.prompts import PromptEncoder

HEAD_VALUES = 1 << 27  # logits held at once by the head, in numbers: 512 MiB in float32


class Session(Protocol):
    """The tokens of a batch of requests that a model has seen, and their keys and values."""

    @property
    def prefix_length(self) -> int:
        """Tokens that every request starts with and that are in the cache already."""
        ...

    def extend(self, tokens: Tensor, positions: Tensor, visible: Tensor, *, keep_from: int) -> Tensor:
        """Append `tokens` [B, T] at `positions` [B, T]; returns their last hidden states [B, T - keep_from, hidden].

        `visible` [B, T, N] bool says which of the N tokens so far, these included, each of them attends to.
        """
        ...

    def select(self, rows: Tensor) -> None:
        """Keep only the requests `rows` (indices into the batch)."""
        ...


@dataclass(frozen=True)
class CodeModel:
    """A causal language model and where the catalog's codes stand in its vocabulary.

    Attributes:
        model: a Hugging Face llama-like causal LM, in eval mode.
        code_ids: [codes] int64 token id of each code of the catalog.
        decoder: runs the same weights for decoding; without one the model's own modules run, as training needs it.
    """

    model: PreTrainedModel
    code_ids: Tensor
    decoder: LlamaDecoder | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the hidden states."""
        return self.model.dtype

    def session(self, batch: int, capacity: int) -> Session:
        """An empty session for `batch` requests that will hold about `capacity` tokens each."""
        if self.decoder is None:
            return ModuleSession(self.model)
        return self.decoder.session(batch, capacity)

    @property
    def prefix_length(self) -> int:
        """Tokens of the fixed prefix that sessions start with; the prompts are cut by as many."""
        return self.decoder.prefix_length if self.decoder is not None else 0

    def code_log_probs(self, hidden: Tensor) -> Tensor:
        """[..., codes] float32 log-probabilities of the codes, log-softmax over the full vocabulary."""
        head = self.model.get_output_embeddings()
        rows = hidden.reshape(-1, hidden.shape[-1])
        if head.weight.shape[0] * len(rows) <= HEAD_VALUES:
            return self._code_log_probs(head(hidden))
        parts = rows.split(max(1, HEAD_VALUES // head.weight.shape[0]))
        found = torch.cat([self._code_log_probs(head(part)) for part in parts])
        return found.view(*hidden.shape[:-1], len(self.code_ids))

    def _code_log_probs(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return logits[..., self.code_ids] - logits.logsumexp(-1, keepdim=True)


class ModuleSession:
    """A session of a model's own modules: any adapter or hook on them works, and gradients flow."""

    prefix_length = 0

    def __init__(self, model: PreTrainedModel) -> None:
        """Start empty."""
        self._model, self._cache = model, DynamicCache()

    def extend(self, tokens: Tensor, positions: Tensor, visible: Tensor, *, keep_from: int) -> Tensor:
        """See `Session`."""
        states: Tensor = self._model.base_model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=additive(visible, self._model.dtype),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return states[:, keep_from:]

    def select(self, rows: Tensor) -> None:
        """See `Session`."""
        self._cache.batch_select_indices(rows)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, Q, N] attention mask to be added to the scores, from `visible` [B, Q, N] bool."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)


def load_code_model(folder: str | Path, encoder: PromptEncoder, device: torch.device, dtype: torch.dtype) -> CodeModel:
    """The language model saved in `folder`, with a decoder for the prompts of `encoder`.

    Raises:
        UserError: it is missing, damaged or not supported.
    """
    model = load_model(folder, device=device, dtype=dtype)
    decoder = LlamaDecoder.of(model, str(folder), prefix=encoder.prefix)
    return CodeModel(model, encoder.code_ids.to(device), decoder)
