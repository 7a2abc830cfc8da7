"""Choosing how to decode: what calls cost on this device, how far the draft is off, and the quotas that follow.

1. `CallCosts`: median times of the target's calls by number of nodes, and of the draft, measured on real prompts.
2. `DraftErrors`: for validation users, how far below the draft's own K-th best node the target's beams stand, level by
   level, and how many nodes stand above that.
3. `shortlist`: the choices of least expected time under 1 and 2, "no speculation" among them. `atspeed_core.planning`
   tries these on requests and takes the fastest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.decoding.plan import SMALL, WHOLE, Choice
from atspeed_core.decoding.proposals import Level

FloatArray = NDArray[np.float64]
SHARES = (0.3, 0.55, 0.75, 0.88, 0.95, 1.0)  # of users that a limit covers: the candidates tried
# Limits to all nodes of a request, tried for the best candidates without one: shares of users whom they leave alone.
TOTALS, PROMISING = (0.5, 0.8, 0.95), 12
# Of a level's limit from that of level 2, where the number of nodes is given and only their spread is chosen.
OFFSETS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
NOTHING = -1000.0  # a limit that no node keeps
AMPLE = 1000.0  # log-probability below the K-th best that no ranked node exceeds
GROUPS = 64  # random batches whose widest request is looked at
NARROWER, WIDER = (0.75, 0.5, 0.25), 1.5  # shares of the best choice's nodes at which others are shortlisted


@dataclass(frozen=True)
class CallCosts:
    """Milliseconds of calls for one batch size and prompt length.

    Attributes:
        nodes: [n] numbers of nodes per request at which calls were timed, ascending, from 0.
        first: [n] prompt and nodes in one call.
        later: [n] nodes alone, behind the prompt; 0 at 0 nodes.
        later_single: [n] the same for one request of the batch, what a repair of few requests is near to.
        draft_nodes: [n] numbers of ranked nodes per request at which drafting was timed, ascending.
        draft: [n] ranking the nodes; 0 without a draft.
        batch: requests.
    """

    nodes: FloatArray
    first: FloatArray
    later: FloatArray
    later_single: FloatArray
    draft_nodes: FloatArray
    draft: FloatArray
    batch: int

    def drafting(self, nodes: FloatArray) -> FloatArray:
        """Time of ranking `nodes` per request."""
        return _interpolated(nodes, self.draft_nodes, self.draft)

    def first_call(self, nodes: FloatArray) -> FloatArray:
        """Time of a first call with `nodes` per request."""
        return _interpolated(nodes, self.nodes, self.first)

    def later_call(self, nodes: FloatArray, requests: FloatArray) -> FloatArray:
        """Time of a later call of `requests`, 1 .. batch, with `nodes` each."""
        one, all_ = (_interpolated(nodes, self.nodes, times) for times in (self.later_single, self.later))
        share = (requests - 1) / max(1, self.batch - 1)
        return np.asarray(one + share * (all_ - one))


@dataclass(frozen=True)
class DraftErrors:
    """How a draft ranks what the target chooses, for U users and L - 1 levels.

    A node is drafted if it and all nodes above it stand within their levels' limits, so of each node the whole path is
    kept: how far it and each node above it stand below the draft's K-th best of their levels.

    Attributes:
        beams: [levels, U, levels, K] the paths of the target's beams, first axis: level by level; inf: not ranked,
            -inf: not needed for the list, or below the beam.
        levels: for level 1, 2, ..., [1, U, n], [2, U, n], ... the paths of the ranked nodes; inf fills up.
        subtree: mean number of inner nodes below a node of each level.
    """

    beams: FloatArray
    levels: list[FloatArray]
    subtree: FloatArray


@dataclass(frozen=True)
class Forecast:
    """What a choice is expected to need for a batch.

    Attributes:
        milliseconds: per batch.
        calls: per request.
        nodes: per request.
    """

    milliseconds: float
    calls: float
    nodes: float

    @property
    def figures(self) -> dict[str, float]:
        """As a plan's file holds them."""
        figures = {"milliseconds": self.milliseconds, "target_calls": self.calls, "target_nodes": self.nodes}
        return {name: round(float(value), 4) for name, value in figures.items()}


def measure_errors(beams: Tensor, needed: Tensor, levels: Sequence[Level], subtree: FloatArray) -> DraftErrors:
    """Compare the target's `beams` [U, L - 1, K], of which some are `needed` [U, L - 1, K] bool, with `levels`."""
    paths = [levels[0].below.unsqueeze(0)]
    for level in levels[1:]:
        above = paths[-1].gather(2, level.parents.expand(len(paths), -1, -1))
        paths.append(torch.cat([above, level.below.unsqueeze(0)]))
    found = torch.full((len(levels), *beams.shape), -torch.inf, device=beams.device)
    for depth, (level, path) in enumerate(zip(levels, paths, strict=True)):
        ranked, place = (beams[:, depth, :, None] == level.nodes[:, None, :]).max(-1)
        own = path.gather(2, place.expand(depth + 1, -1, -1)).masked_fill(~ranked, torch.inf)
        found[: depth + 1, :, depth] = own.masked_fill(~needed[:, depth], -torch.inf)
    return DraftErrors(found.double().cpu().numpy(), [path.double().cpu().numpy() for path in paths], subtree)


def candidates(errors: DraftErrors) -> list[tuple[float, ...]]:
    """Limits to try: for each level those that cover certain shares of the users, for the deeper ones none at all."""
    by_level = []
    for level in range(len(errors.beams)):
        worst = errors.beams[level, :, level].max(axis=1)
        known = worst[np.isfinite(worst)]
        found = np.quantile(known, SHARES) if len(known) else np.zeros(1)
        by_level.append([*([NOTHING] if level else []), *sorted({round(float(limit), 3) for limit in found})])
    whole = (limits for limits in product(*by_level) if not below_nothing(limits))
    return list(whole)


def below_nothing(limits: tuple[float, ...]) -> bool:
    """Whether a level has a limit although none is drafted of the level before."""
    return any(before == NOTHING != limit for before, limit in pairwise(limits))


def beyond(paths: FloatArray, limits: tuple[float, ...]) -> FloatArray:
    """[...] how far the nodes of `paths` [depth, ...] stand beyond `limits`, negative within them."""
    pairs = zip(paths, limits, strict=False)  # deeper limits do not concern them
    return reduce(np.maximum, (below - limit for below, limit in pairs))


def ranked_nodes(limits: tuple[float, ...], errors: DraftErrors) -> FloatArray:
    """[U] nodes within `limits`."""
    return np.asarray(sum((beyond(level, limits) <= 0).sum(axis=1) for level in errors.levels), dtype=float)


def tightened(limits: tuple[float, ...], errors: DraftErrors, total: int | None) -> FloatArray:
    """[U] by how much, 0 or less, each user's limits change so that about `total` nodes are drafted (`Quotas`).

    Nodes that stand exactly at the last place are all counted; the drafter takes the first of them.
    """
    past = np.concatenate([beyond(level, limits) for level in errors.levels], axis=1)
    if total is None or past.shape[1] <= total:
        return np.zeros(len(past))
    return np.minimum(0.0, np.partition(past, total - 1, axis=1)[:, total - 1])


def beams_missing(limits: tuple[float, ...], errors: DraftErrors, total: int | None) -> NDArray[np.bool_]:
    """[U, levels, K] needed beams of the target that are not drafted."""
    return np.asarray(beyond(errors.beams, limits) > tightened(limits, errors, total)[:, None, None])


def forecast(
    limits: tuple[float, ...], errors: DraftErrors, costs: CallCosts, *, repair_subtree: int, total: int | None = None
) -> Forecast:
    """Expected need of drafting all nodes within `limits` of the draft's K-th best, no more than `total`."""
    rng = np.random.default_rng(0)
    ranked = ranked_nodes(limits, errors)
    drafted = np.minimum(ranked, np.inf if total is None else total)
    missing = beams_missing(limits, errors, total)
    missed = np.asarray(missing.any(axis=(1, 2)))
    taken = np.where(errors.subtree <= repair_subtree, errors.subtree, 0.0)
    repaired = (missing.sum(axis=2) * (1 + taken)).sum(axis=1)
    # What lies below the others needs a call more.
    again = np.asarray(missing[:, errors.subtree > repair_subtree].any(axis=(1, 2)))
    users = len(missed)
    groups = np.arange(users)[:, None] if costs.batch == 1 else rng.integers(0, users, (GROUPS, costs.batch))
    late = missed[groups].sum(axis=1)
    width = np.where(missed[groups], repaired[groups], 0).max(axis=1)
    first = costs.first_call(np.asarray(drafted)[groups].max(axis=1))
    later = np.where(late > 0, costs.later_call(width, np.maximum(1, late)), 0.0)
    once_more = again[groups].sum(axis=1)
    later = later + np.where(once_more > 0, costs.later_call(width, np.maximum(1, once_more)), 0.0)
    nodes = drafted + np.where(missed, repaired, 0)
    drafting = costs.drafting(ranked[groups].max(axis=1))
    calls = 1 + float(missed.mean() + again.mean())
    return Forecast(float(np.mean(drafting + first + later)), calls, float(np.mean(nodes)))


def fewest_calls(errors: DraftErrors, total: int, *, most: Sequence[int]) -> tuple[Choice, float]:
    """The choice with the fewest expected calls where every request drafts `total` nodes, and these calls.

    What differs between the candidates is how the nodes spread over the levels. A repair takes whole subtrees along, so
    a request that misses a beam mostly needs one call more and no third.
    """
    number = len(errors.beams)
    anchor = min(1, number - 1)
    offsets = [OFFSETS if level != anchor else (0.0,) for level in range(number)]

    def calls(limits: tuple[float, ...]) -> float:
        return 1 + float(beams_missing(limits, errors, total).any(axis=(1, 2)).mean())

    spread = [tuple(AMPLE + offset for offset in chosen) for chosen in product(*offsets)]
    best = min(spread, key=calls)
    choice = Choice(
        speculation="draft",
        most=[min(each, total) for each in most],
        within=list(best),
        ranked_levels=len(most),
        total=total,
        repair_subtree=WHOLE,
    )
    return choice, calls(best)


def without_speculation(levels: int, k: int, costs: CallCosts) -> Forecast:
    """The target's own beam search."""
    steps = (levels - 1) * costs.later_call(np.array([float(k)]), np.array([float(costs.batch)]))[0]
    return Forecast(float(costs.first_call(np.zeros(1))[0] + steps), levels, (levels - 1) * k)


def trie_alone(codes: int, k: int, costs: CallCosts, subtree: FloatArray) -> Forecast:
    """All `codes` of level 1 in the first call, beams of level 2 with their subtrees in the second."""
    second = k * (1 + subtree[1]) if len(subtree) > 1 else 0.0
    later = costs.later_call(np.array([second]), np.array([float(costs.batch)]))[0]
    return Forecast(float(costs.first_call(np.array([float(codes)]))[0] + later), 2.0, codes + second)


def shortlist(
    errors: DraftErrors | None,
    costs: CallCosts,
    *,
    k: int,
    levels: int,
    codes: int,
    subtree: FloatArray,
    most: Sequence[int],
) -> list[tuple[Forecast, Choice]]:
    """Choices that are worth trying, and what they are expected to need.

    They are: no speculation, which comes first; the trie alone; with a draft the one of least expected time, and those
    of least expected time among the choices with at most 3/4, 1/2, 1/4 and at least 3/2 of its nodes.

    Args:
        errors: of the draft; None without one.
        costs: measured.
        k: list length.
        levels: length of an identifier.
        codes: nodes of level 1.
        subtree: see `DraftErrors`.
        most: nodes that the draft ranks at each level at most.
    """
    chosen = [
        (without_speculation(levels, k, costs), Choice(speculation="none")),
        (trie_alone(codes, k, costs, subtree), Choice(speculation="trie", most=[codes], repair_subtree=WHOLE)),
    ]
    if errors is None:
        return chosen
    drafts: list[tuple[Forecast, Choice]] = []

    def consider(limits: tuple[float, ...], repair_subtree: int, total: int | None) -> None:
        made = forecast(limits, errors, costs, repair_subtree=repair_subtree, total=total)
        choice = Choice(
            speculation="draft",
            most=[min(each, total or each) for each in most],
            within=list(limits),
            ranked_levels=len(most),
            total=total,
            repair_subtree=repair_subtree,
        )
        drafts.append((made, choice))

    for limits in candidates(errors):
        for repair_subtree in (SMALL, WHOLE):
            consider(limits, repair_subtree, None)
    for _, choice in sorted(drafts, key=lambda option: option[0].milliseconds)[:PROMISING]:
        limits = tuple(limit for limit in choice.within if limit is not None)
        for total in sorted({max(1, int(n)) for n in np.quantile(ranked_nodes(limits, errors), TOTALS)}):
            consider(limits, choice.repair_subtree, total)
    drafts.sort(key=lambda option: option[0].milliseconds)
    best = drafts[0][0].nodes
    bounds = [(0.0, 1.0), *((0.0, share) for share in NARROWER), (WIDER, np.inf)]
    for low, high in bounds:
        found = next((option for option in drafts if low * best <= option[0].nodes <= high * best), None)
        if found is not None and found not in chosen:
            chosen.append(found)
    return chosen


def median_milliseconds(run: Callable[[], Callable[[], object]], clock: Callable[[], float], repetitions: int) -> float:
    """Median time of what `run` prepares; the preparation and one warm-up are not timed."""
    run()()
    times = []
    for _ in range(repetitions):
        prepared = run()
        start = clock()
        prepared()
        times.append(clock() - start)
    return float(np.median(times)) * 1000


def _interpolated(at: FloatArray, known: FloatArray, times: FloatArray) -> FloatArray:
    """Linear between the measured points and beyond the last."""
    inside = np.interp(at, known, times)
    slope = (times[-1] - times[-2]) / (known[-1] - known[-2]) if len(known) > 1 else 0.0
    return np.asarray(inside + np.maximum(0, at - known[-1]) * slope)
