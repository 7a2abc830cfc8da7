"""Method seqkd: cross-entropy of the target's cached sequences (arXiv 1606.07947, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atspeed_core.methods import Method, top_k

if TYPE_CHECKING:
    from torch import Tensor

    from atspeed_core.training.alignment_batch import AlignmentBatch


def _loss(batch: AlignmentBatch) -> dict[str, Tensor]:
    from atspeed_core.training import losses

    aligned = batch.aligned
    return {"alignment_loss": losses.seqkd(aligned.log_q_taken, aligned.exists)}


METHOD = Method(
    name="seqkd",
    order=40,
    summary="Draft trained on the target's top-K sequences.",
    drafter="language_model",
    sequences=top_k,
    loss=_loss,
    paper_row="SeqKD",
)
