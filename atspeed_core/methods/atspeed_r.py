"""Method atspeed_r: total variation distance along the target's sequences (AtSpeed, eq. 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atspeed_core.methods import Method, as_set

if TYPE_CHECKING:
    from torch import Tensor

    from atspeed_core.training.alignment_batch import AlignmentBatch


def _loss(batch: AlignmentBatch) -> dict[str, Tensor]:
    from atspeed_core.training import losses

    aligned = batch.aligned
    return {"alignment_loss": losses.atspeed_r(aligned.log_q, aligned.log_p, aligned.weights)}


METHOD = Method(
    name="atspeed_r",
    order=70,
    summary="Draft aligned for relaxed sampling verification.",
    drafter="language_model",
    sequences=as_set,
    loss=_loss,
    paper_row="AtSpeed-R",
    wired=True,
)
