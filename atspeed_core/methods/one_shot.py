"""Method one_shot: forward KL divergence over the children of the cached prefixes, for the one-shot draft."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atspeed_core.methods import Method, top_k

if TYPE_CHECKING:
    from torch import Tensor

    from atspeed_core.training.alignment_batch import AlignmentBatch


def _loss(batch: AlignmentBatch) -> dict[str, Tensor]:
    from atspeed_core.training.distillation import distillation

    draft = batch.draft
    scores = draft(batch.items[:, -draft.max_history :])
    return {"alignment_loss": distillation(draft, scores, batch.cached, batch.data.trie)}


METHOD = Method(
    name="one_shot",
    order=90,
    summary="Draft that scores all prefixes in one forward, distilled from the target's lists.",
    drafter="one_shot",
    sequences=top_k,
    loss=_loss,
    wired=True,
)
