"""Prompts: a fixed prefix, then the codes of the history's items, oldest first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from atspeed_core.errors import UserError
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.tokenizer import code_token_ids


@dataclass(frozen=True)
class PromptEncoder:
    """Turns item ids into token ids.

    Attributes:
        prefix: token ids of beginning-of-sequence and instruction.
        item_tokens: [items, levels] int64 token ids of every item's identifier.
        code_ids: [codes] int64 token id of each code.
        pad_id: padding token id.
        catalog: the items.
        max_history: most recent items that a prompt holds.
    """

    prefix: list[int]
    item_tokens: Tensor
    code_ids: Tensor
    pad_id: int
    catalog: Catalog
    max_history: int

    @classmethod
    def build(
        cls, tokenizer: PreTrainedTokenizerBase, catalog: Catalog, *, instruction: str = "", max_history: int
    ) -> "PromptEncoder":
        """Look the catalog's codes up in `tokenizer`; a non-empty `instruction` stands before every history."""
        code_ids = torch.tensor(code_token_ids(tokenizer, catalog.code_tokens))
        prefix = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        prefix += tokenizer(instruction, add_special_tokens=False)["input_ids"] if instruction else []
        pad_id = tokenizer.pad_token_id
        assert isinstance(pad_id, int)
        return cls(prefix, code_ids[torch.from_numpy(catalog.codes)], code_ids, pad_id, catalog, max_history)

    def known(self, history: Sequence[str]) -> list[int]:
        """Places in the catalog of the most recent known items, oldest first."""
        places: list[int] = self.catalog.positions_of(history).tolist()
        return places[-self.max_history :]

    def encode(self, histories: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Left-padded prompts: token ids [B, S] int64 and mask [B, S] int64 (1 = prompt, 0 = padding).

        Raises:
            UserError: a history is empty or holds no known item; its number in the batch is named.
        """
        known = [self.known(history) for history in histories]
        for number, (history, places) in enumerate(zip(histories, known, strict=True)):
            if not places:
                what = "is empty" if not history else f"holds no known item (first: '{history[0]}')"
                raise UserError(f"request {number}: the history {what}; give at least one item of the catalog")
        return self.encode_positions(known)

    def encode_positions(self, histories: Sequence[Sequence[int] | NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
        """As `encode`, for histories given as places in the catalog and already capped."""
        rows = [self.prefix + self.item_tokens[list(places)].flatten().tolist() for places in histories]
        return left_padded(rows, self.pad_id)


def left_padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, S] and mask [B, S], padded on the left."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, length - len(row) :] = torch.tensor(row)
        mask[i, length - len(row) :] = 1
    return ids, mask
