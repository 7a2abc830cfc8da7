"""Method wordkd: forward KL divergence along the item that came next (arXiv 1606.07947, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atspeed_core.methods import Method, next_item

if TYPE_CHECKING:
    from torch import Tensor

    from atspeed_core.training.alignment_batch import AlignmentBatch


def _loss(batch: AlignmentBatch) -> dict[str, Tensor]:
    from atspeed_core.training import losses

    aligned = batch.aligned
    return {"alignment_loss": losses.wordkd(aligned.log_q, aligned.log_p, aligned.weights)}


METHOD = Method(
    name="wordkd",
    order=20,
    summary="Draft distilled word by word along the ground truth.",
    drafter="language_model",
    sequences=next_item,
    loss=_loss,
    paper_row="WordKD",
)
