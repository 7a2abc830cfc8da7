"""Verifications, one file each: how the target's scores turn proposed nodes into a list.

docs/extending.md shows how to add one. Reading them imports no torch: how a request is searched is expressed in terms
of the recommender's own searches. One with a rule of its own imports it when it searches, and calls `speculate`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from atspeed_core.variants import Variants

Prepared = Any  # atspeed_core.recommender.Request
Result = Any  # atspeed_core.decoding.search.SearchResult


class Engine(Protocol):
    """What a verification searches with: a `Recommender`."""

    def speculate(self, request: Prepared, rule: Any, choice: Any = None) -> Result:
        """Lists under a `decoding.beam_rules.BeamRule`, speculating by `choice` (default: the plan's)."""
        ...

    def search_best(self, request: Prepared, *, speculate: bool = True) -> Result:
        """The target's own beam search lists; `speculate`: as the plan specifies, else one level per call."""
        ...

    def search_sampled(self, request: Prepared, seed: int) -> Result:
        """Lists sampled without replacement from the target's distribution, speculating as the plan specifies."""
        ...

    def search_relaxed(self, request: Prepared, seed: int) -> Result:
        """Lists sampled approximately, drafted in rounds as published (AtSpeed, section 3.3)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verification:
    """One verification.

    Attributes:
        name: that of its file.
        order: position in lists and tables.
        summary: one line.
        search: (recommender, prepared request, seed) -> lists.
        lossless: whether the lists are those of the target alone, whatever is proposed.
        compared_with: what evaluation compares the lists with: the reference lists of transformers' generate, or the
            lists that the target samples without speculation, with the same seed.
        planned: whether the plan decides how requests are decoded.
        drafts_in_rounds: whether the draft must be able to draft anew after every round; not more than `draft_beams`
            items then.
        primary: whether its figures have no prefix in MLflow: one verification alone.
        in_paper: whether the paper reports figures of it.
        also_as_published: whether evaluation measures its accepted steps under the published scheme as well.
    """

    name: str
    order: int
    summary: str
    search: Callable[[Engine, Prepared, int], Result]
    lossless: bool
    compared_with: Literal["reference", "target_samples"]
    planned: bool
    drafts_in_rounds: bool = False
    primary: bool = False
    in_paper: bool = False
    also_as_published: bool = False


VERIFICATIONS = Variants(__name__, Verification, "verification", order=lambda verification: verification.order)


def primary() -> Verification:
    """The verification whose figures the report and the gate are about."""
    return next(verification for verification in VERIFICATIONS.all().values() if verification.primary)
