"""Method atspeed_s: reverse KL divergence with density regularisation (AtSpeed, eq. 3)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from atspeed_core.methods import Method

if TYPE_CHECKING:
    from torch import Tensor

    from atspeed_core.settings import AlignDraft
    from atspeed_core.training.alignment_batch import AlignmentBatch, SequenceSource


def _sequences(settings: AlignDraft, step: int) -> SequenceSource:
    """The draft's own beams in the share lambda of the updates, evenly spread, else what is set."""
    share = settings.lambda_
    return "own_beams" if math.floor((step + 1) * share) > math.floor(step * share) else settings.sequences


def _loss(batch: AlignmentBatch) -> dict[str, Tensor]:
    from atspeed_core.training import losses

    aligned, beta = batch.aligned, batch.settings.beta
    loss = losses.atspeed_s(aligned.log_q, aligned.log_p, aligned.log_p_kth, aligned.weights, beta=beta)
    return {"alignment_loss": loss}


METHOD = Method(
    name="atspeed_s",
    order=60,
    summary="Draft aligned for strict top-K verification.",
    drafter="language_model",
    sequences=_sequences,
    loss=_loss,
    paper_row="AtSpeed-S",
    wired=True,
)
