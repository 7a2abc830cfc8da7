"""The plan: how to decode, by length of the prompt, list length and batch size. `planner` makes it, people read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atspeed_core.decoding.proposals import Quotas
from atspeed_core.errors import UserError
from atspeed_core.files import read_json, write_json

SMALL, WHOLE = 8, 512  # inner nodes of a subtree that a repair takes along: little is lost, or no call is
Count = Annotated[int, Field(ge=0)]


class Choice(BaseModel):
    """How requests of one kind are decoded.

    Attributes:
        speculation: "none": the target's own beam search; "trie": all codes of level 1 in the first call; "draft".
        most: nodes of each level, see `drafters.Quotas`.
        within: log-probability below the draft's K-th best, for the same levels; null: no such limit.
        ranked_levels: see `drafters.Quotas`.
        total: nodes of all ranked levels together; null: no such limit.
        repair_subtree: see `search.search`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    speculation: Literal["none", "trie", "draft"]
    most: list[Count] = []
    within: list[float | None] = []
    ranked_levels: Count = 0
    total: Count | None = None
    repair_subtree: Count = 0

    @property
    def quotas(self) -> Quotas:
        """`most`, `within` and `ranked_levels` as the drafter wants them."""
        limits = [float("inf") if limit is None else limit for limit in self.within]
        limits += [float("inf")] * (len(self.most) - len(limits))
        return Quotas(tuple(self.most), tuple(limits), self.ranked_levels, self.total)


class Trial(BaseModel):
    """A choice that was tried.

    Attributes:
        choice: what was tried.
        predicted: milliseconds per batch, target_calls and target_nodes per request that were expected.
        milliseconds: measured, mean of some batches; null where the forecasts decided.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    choice: Choice
    predicted: dict[str, float]
    milliseconds: float | None


class Planned(BaseModel):
    """A choice, what it is for and what it was expected to cost.

    Attributes:
        prompt_tokens: longest prompt of the bucket.
        k: list length.
        batch: requests in one call.
        choice: what was chosen.
        predicted: milliseconds per batch, target_calls and target_nodes per request that were expected of it.
        tried: it and its rivals; the first is no speculation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: Count
    k: Count
    batch: Count
    choice: Choice
    predicted: dict[str, float] = {}
    tried: list[Trial] = []


@dataclass(frozen=True)
class Plan:
    """Choices for the kinds of requests that were planned for; others take the nearest kind's.

    Attributes:
        planned: the choices; empty: `default_choice` for every request.
        facts: device, models and cost curve that the plan rests on.
    """

    planned: list[Planned]
    facts: dict[str, Any]

    def choice(self, *, prompt_tokens: int, k: int, batch: int, levels: int, has_draft: bool) -> Choice:
        """The choice for a batch of requests; a plan for a draft serves without it as well, by the trie alone."""
        if not self.planned:
            return default_choice(k, levels, has_draft=has_draft)
        best = min(self.planned, key=lambda p: _distance(p, prompt_tokens, k, batch))
        if best.choice.speculation == "draft" and (not has_draft or best.k != k):
            return default_choice(k, levels, has_draft=has_draft)
        return best.choice

    def save(self, path: str | Path) -> None:
        """Write the plan's file."""
        write_json(path, {"facts": self.facts, "planned": [planned.model_dump() for planned in self.planned]})

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan's file.

        Raises:
            UserError: it is missing or no plan.
        """
        try:
            raw = read_json(Path(path))
            return cls([Planned.model_validate(row) for row in raw["planned"]], raw["facts"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: no usable plan ({reason:.160}); run the evaluate stage") from None


def default_choice(k: int, levels: int, *, has_draft: bool) -> Choice:
    """What is done without a plan: generous quotas, most at level 2, where item tries branch most."""
    if not has_draft:
        return Choice(speculation="trie", most=[512], repair_subtree=WHOLE)
    by_level = [2 * k + 16, 6 * k + 32, 8 * k + 32]
    most = (by_level + by_level[-1:] * levels)[: max(0, levels - 1)]
    return Choice(speculation="draft", most=most, ranked_levels=2, repair_subtree=SMALL)


def _distance(planned: Planned, prompt_tokens: int, k: int, batch: int) -> tuple[float, float, float]:
    too_short = max(0, prompt_tokens - planned.prompt_tokens)
    too_long = max(0, planned.prompt_tokens - prompt_tokens)
    return (abs(planned.k - k), abs(planned.batch - batch), 1000.0 * too_short + too_long)
