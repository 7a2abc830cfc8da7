"""Method prefix_containment: the target's prefixes among the nodes that are drafted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atspeed_core.methods import Method, top_k

if TYPE_CHECKING:
    from torch import Tensor

    from atspeed_core.training.alignment_batch import AlignmentBatch


def _loss(batch: AlignmentBatch) -> dict[str, Tensor]:
    from atspeed_core.training.containment import containment

    settings = batch.settings.prefix_containment
    loss, contained = containment(batch.draft, batch.data.trie, *batch.prompts, batch.cached, settings)
    return {"alignment_loss": loss, "contained": contained}


METHOD = Method(
    name="prefix_containment",
    order=80,
    summary="Draft aligned on holding the target's top-K prefixes among its nodes.",
    drafter="language_model",
    sequences=top_k,
    loss=_loss,
)
