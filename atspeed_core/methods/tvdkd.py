"""Method tvdkd: total variation distance along the item that came next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atspeed_core.methods import Method, next_item

if TYPE_CHECKING:
    from torch import Tensor

    from atspeed_core.training.alignment_batch import AlignmentBatch


def _loss(batch: AlignmentBatch) -> dict[str, Tensor]:
    from atspeed_core.training import losses

    aligned = batch.aligned
    return {"alignment_loss": losses.atspeed_r(aligned.log_q, aligned.log_p, aligned.weights)}


METHOD = Method(
    name="tvdkd",
    order=30,
    summary="Draft distilled by total variation along the ground truth.",
    drafter="language_model",
    sequences=next_item,
    loss=_loss,
    paper_row="TVDKD",
)
