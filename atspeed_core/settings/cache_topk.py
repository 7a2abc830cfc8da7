"""Section `cache_topk`: the sequences of the target that drafts are aligned on."""

from typing import Annotated

from pydantic import Field

from atspeed_core.settings.section import Positive, Section


class CacheTopk(Section):
    """The target's top-K sequences for the training users.

    Attributes:
        contexts_per_user: cuts of a training history.
        rollouts_per_user: rollouts of each user's whole training history.
        rollout_items: items per rollout, sampled from the target's distribution; the history after each of
            them is a context as well.
    """

    top_k: Positive
    contexts_per_user: Positive
    rollouts_per_user: Annotated[int, Field(ge=0)]
    rollout_items: Positive
    batch_size: Positive
    contexts_per_shard: Positive
    compare_users: Annotated[int, Field(ge=0)]
    seed: int
