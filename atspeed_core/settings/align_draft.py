"""Section `align_draft`: training of the drafts."""

import importlib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from atspeed_core.settings.architecture import Architecture
from atspeed_core.settings.section import Positive, Section, Share, variant_in

MethodName = Annotated[str, variant_in("atspeed_core.methods", "method")]


def method_names() -> list[str]:
    """Names of the alignment methods, in their order.

    The registry stands above the settings. It is imported by name, so that a stage that only lists the methods does not
    depend on their code.
    """
    return list(importlib.import_module("atspeed_core.methods").METHODS.all())


class WarmAlign(Section):
    """What differs in the training of a draft that starts from the champion's weights."""

    num_updates: Positive
    learning_rate: Annotated[float, Field(gt=0)]


class OneShotShape(Section):
    """The shape of the draft of method one_shot.

    Attributes:
        dropout: of the outputs of attention and feed-forward layers, in training.
    """

    hidden_size: Positive
    num_layers: Positive
    num_heads: Positive
    dropout: Share

    @model_validator(mode="after")
    def _heads_divide_the_hidden_size(self) -> "OneShotShape":
        if self.hidden_size % self.num_heads:
            raise ValueError("'hidden_size' must be a multiple of 'num_heads'")
        return self


class OneShot(OneShotShape):
    """The draft of method one_shot: its shape and its training.

    Attributes:
        num_updates: an update of this draft is cheap, so it makes more of them than the others in the same time.
        batch_size: contexts per update.
    """

    num_updates: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    warm: WarmAlign

    def warmed(self) -> "OneShot":
        """These settings for a training that starts from the champion's weights."""
        return self.model_copy(update=dict(self.warm))


class PrefixContainment(Section):
    """What method prefix_containment asks of its draft.

    Attributes:
        nodes: n_t, how many nodes of level 1, 2, ... are drafted; the last counts for deeper levels too.
        margin: log-probability by which a prefix of the target's should stand above what must stay outside.
    """

    nodes: Annotated[list[Positive], Field(min_length=1)]
    margin: Annotated[float, Field(ge=0)]


class AlignDraft(Section):
    """Training of the draft; for the language models the same initial weights and number of updates.

    Attributes:
        architecture: of drafts from scratch; the alternative to `base_model`.
        base_model: folder, hub name or `package:NAME` of a model with the target's tokenizer, which drafts start from.
        alpha: weight of the alignment loss; the recommendation loss has 1 - alpha.
        beta: weight of the density regularisation of atspeed_s; 0: without it.
        lambda_: share of updates in which atspeed_s aligns on the draft's own beams.
        constrained: alignment compares the valid codes after a prefix; false: the whole vocabulary, for which the
            target runs in every update.
        sequences: what atspeed_s and atspeed_r align on: the target's cached sequences, or the item that came next.
    """

    architecture: Architecture | None = None
    base_model: Annotated[str, Field(min_length=1)] | None = None
    alpha: Share
    beta: Annotated[float, Field(ge=0)]
    lambda_: Annotated[float, Field(ge=0, le=1, alias="lambda")]
    constrained: bool
    sequences: Literal["top_k", "ground_truth"]
    prefix_containment: PrefixContainment
    num_updates: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warm: WarmAlign
    one_shot: OneShot
    seed: int

    @model_validator(mode="after")
    def _either_scratch_or_base(self) -> "AlignDraft":
        if (self.base_model is None) == (self.architecture is None):
            raise ValueError("set exactly one of 'base_model' (pretrained) and 'architecture' (from scratch)")
        return self

    def warmed(self) -> "AlignDraft":
        """These settings for a training that starts from the champion's weights."""
        return self.model_copy(update={**dict(self.warm), "one_shot": self.one_shot.warmed()})
