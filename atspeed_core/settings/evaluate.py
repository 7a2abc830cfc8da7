"""Section `evaluate`: what is measured, and how lists are decoded for it."""

from typing import Annotated

from pydantic import Field, model_validator

from atspeed_core.settings.section import Positive, Section, Share, variant_in

VerificationName = Annotated[str, variant_in("atspeed_core.verifications", "verification")]


class PlanDecoding(Section):
    """How the plan of decoding is measured.

    Attributes:
        users: validation users whose lists show how well the draft ranks.
        batches: batch sizes to plan for, in requests per call.
        prompt_percentiles: prompt lengths to plan for, as percentiles of the users' ones.
        repetitions: timed calls at each point of the cost curve.
    """

    users: Positive
    batches: Annotated[list[Positive], Field(min_length=1)]
    prompt_percentiles: Annotated[list[Annotated[int, Field(ge=0, le=100)]], Field(min_length=1)]
    repetitions: Positive


class CallsByNodes(Section):
    """The curve of target calls against nodes.

    Attributes:
        ks: list lengths, those of them that are evaluated.
        nodes: nodes drafted for every request.
        users: test users, the same for all methods; null: all.
    """

    ks: list[Positive]
    nodes: list[Positive]
    users: Positive | None


class SasRec(Section):
    """Training of the baseline SASRec; validation users decide after how many updates it is best.

    Attributes:
        dropout: more for sparser data.
        max_updates: with 64 windows of training histories each; they bound its time.
    """

    hidden_size: Annotated[int, Field(gt=0, multiple_of=2)]  # two heads
    dropout: Share
    max_updates: Positive


class Evaluate(Section):
    """What is measured, over all test users.

    Attributes:
        draft_beams: N of the published scheme, nodes drafted per level in every round.
        draft_steps: gamma of the published scheme, levels drafted in every round.
        published_users: test users of AS by the published scheme; null: all.
        lossy_users: test users of verifications whose lists need not be the target's own; null: all.
        tree_attention: the target scores all drafted beams in one sequence; false: each in a row of its own.
    """

    ks: list[Positive]
    verifications: list[VerificationName]
    draft_beams: Positive
    draft_steps: Positive
    published_users: Positive | None
    lossy_users: Positive | None
    tree_attention: bool
    exclude_history: bool
    plan: PlanDecoding
    calls_by_nodes: CallsByNodes
    sasrec: SasRec
    temperature: Annotated[float, Field(gt=0)]
    batch_size: Positive
    timing_users: Annotated[int, Field(ge=2)]
    bootstrap_samples: Positive
    seed: int

    @model_validator(mode="after")
    def _draft_is_as_wide_as_the_lists(self) -> "Evaluate":
        if self.ks and self.draft_beams < max(self.ks):
            raise ValueError(
                f"'draft_beams' ({self.draft_beams}) must be at least the largest of 'ks' ({max(self.ks)})"
            )
        return self
