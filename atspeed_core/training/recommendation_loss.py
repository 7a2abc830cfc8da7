"""The recommendation loss L_rec (AtSpeed, eq. 1): cross-entropy on item tokens only."""

import torch
from torch import Tensor, nn

from atspeed_core.decoding.scored_tree import position_ids
from atspeed_core.training.windows import IGNORED, TokenBatch


def recommendation_loss(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Mean cross-entropy over the labelled tokens of left-padded windows; the prompt and padding do not count."""
    device = next(model.parameters()).device
    mask = batch.mask.to(device)
    logits = model(
        input_ids=batch.ids.to(device), attention_mask=mask, position_ids=position_ids(mask), use_cache=False
    ).logits
    labels = _labels(batch).to(device)
    labelled = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits[:, :-1][labelled].float(), labels[labelled])


def labelled_tokens(batch: TokenBatch) -> int:
    """Number of tokens that the loss is the mean of."""
    return int((_labels(batch) != IGNORED).sum())


def _labels(batch: TokenBatch) -> Tensor:
    return batch.labels[:, 1:]
