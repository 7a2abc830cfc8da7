"""Choosing how to decode: what calls cost on this device, how far the draft is off, and the quotas that follow.

1. `CallCosts`: median times of the target's calls by number of nodes, and of the draft, measured on real prompts.
2. `DraftErrors`: for validation users, how far below the draft's own K-th best node the target's beams stand, level by
   level, and how many nodes stand above that.
3. `cheapest`: the expected time of every candidate under 1 and 2; the least wins, "no speculation" among them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.decoding.drafters import Level
from atspeed_core.decoding.plan import Choice

FloatArray = NDArray[np.float64]
SHARES = (0.25, 0.4, 0.55, 0.7, 0.8, 0.88, 0.94, 0.98, 1.0)  # of users that a limit covers: the candidates tried
GROUPS = 64  # random batches whose widest request is looked at
GAIN = 0.97  # speculation must promise at least this much: below that the difference is noise


@dataclass(frozen=True)
class CallCosts:
    """Milliseconds of calls for one batch size and prompt length.

    Attributes:
        nodes: [n] numbers of nodes a request at which calls were timed, ascending, from 0.
        first: [n] prompt and nodes in one call.
        later: [n] nodes alone, behind the prompt; 0 at 0 nodes.
        later_single: [n] the same for one request of the batch, what a repair of few requests is near to.
        draft: ranking the nodes; 0 without a draft.
        batch: requests.
    """

    nodes: FloatArray
    first: FloatArray
    later: FloatArray
    later_single: FloatArray
    draft: float
    batch: int

    def first_call(self, nodes: FloatArray) -> FloatArray:
        """Time of a first call with `nodes` a request."""
        return _interpolated(nodes, self.nodes, self.first)

    def later_call(self, nodes: FloatArray, requests: FloatArray) -> FloatArray:
        """Time of a later call of `requests`, 1 .. batch, with `nodes` each."""
        one, all_ = (_interpolated(nodes, self.nodes, times) for times in (self.later_single, self.later))
        share = (requests - 1) / max(1, self.batch - 1)
        return np.asarray(one + share * (all_ - one))


@dataclass(frozen=True)
class DraftErrors:
    """How a draft ranks what the target chooses, for U users and L - 1 levels.

    Attributes:
        gaps: [U, levels, K] how far each of the target's beams stands below the draft's K-th best; inf: not ranked.
        levels: for each level, [U, n] how far each ranked node stands below the K-th best, ascending; inf fills up.
        subtree: mean number of inner nodes below a node of each level.
    """

    gaps: FloatArray
    levels: list[FloatArray]
    subtree: FloatArray


@dataclass(frozen=True)
class Forecast:
    """What a choice is expected to need for a batch.

    Attributes:
        milliseconds: a batch.
        calls: a request.
        nodes: a request.
    """

    milliseconds: float
    calls: float
    nodes: float


def measure_errors(beams: Tensor, levels: Sequence[Level], subtree: FloatArray, k: int) -> DraftErrors:
    """Compare the target's `beams` [U, L - 1, K] (NO_NODE allowed) with the draft's ranked `levels`."""
    gaps, ranked = [], []
    for depth, level in enumerate(levels):
        kth = min(k, level.keys.shape[1])
        below = level.keys[:, kth - 1 : kth].masked_fill(level.keys[:, kth - 1 : kth] == -torch.inf, 0.0) - level.keys
        same = beams[:, depth, :, None] == level.nodes[:, None, :]
        gap = torch.where(same, below.unsqueeze(1), torch.inf).amin(-1)
        gaps.append(gap.masked_fill(beams[:, depth] < 0, -torch.inf).double().cpu().numpy())
        ranked.append(below.double().cpu().numpy())
    return DraftErrors(np.stack(gaps, axis=1), ranked, subtree)


def candidates(errors: DraftErrors) -> list[tuple[float, ...]]:
    """Limits to try: for each level those that cover certain shares of the users."""
    worst = errors.gaps.max(axis=2)  # [U, levels]
    by_level = []
    for level in range(worst.shape[1]):
        known = worst[np.isfinite(worst[:, level]), level]
        found = np.quantile(known, SHARES) if len(known) else np.zeros(1)
        by_level.append(sorted({round(max(0.0, float(limit)), 3) for limit in found}))
    return list(product(*by_level))


def forecast(limits: tuple[float, ...], errors: DraftErrors, costs: CallCosts, *, repair_nodes: int) -> Forecast:
    """Expected need of drafting all nodes within `limits` of the draft's K-th best."""
    rng = np.random.default_rng(0)
    drafted = sum((ranked <= limit).sum(axis=1) for ranked, limit in zip(errors.levels, limits, strict=True))
    missing = errors.gaps > np.array(limits)[None, :, None]  # [U, levels, K]
    missed = np.asarray(missing.any(axis=(1, 2)))
    repaired = (missing.sum(axis=2) + np.minimum(missing.sum(axis=2) * errors.subtree, repair_nodes)).sum(axis=1)
    users = len(missed)
    groups = np.arange(users)[:, None] if costs.batch == 1 else rng.integers(0, users, (GROUPS, costs.batch))
    late = missed[groups].sum(axis=1)
    width = np.where(missed[groups], repaired[groups], 0).max(axis=1)
    first = costs.first_call(np.asarray(drafted)[groups].max(axis=1))
    later = np.where(late > 0, costs.later_call(width, np.maximum(1, late)), 0.0)
    nodes = drafted + np.where(missed, repaired, 0)
    return Forecast(costs.draft + float(np.mean(first + later)), 1 + float(missed.mean()), float(np.mean(nodes)))


def without_speculation(levels: int, k: int, costs: CallCosts) -> Forecast:
    """The target's own beam search."""
    steps = (levels - 1) * costs.later_call(np.array([float(k)]), np.array([float(costs.batch)]))[0]
    return Forecast(float(costs.first_call(np.zeros(1))[0] + steps), levels, (levels - 1) * k)


def trie_alone(codes: int, k: int, costs: CallCosts, subtree: FloatArray) -> Forecast:
    """All `codes` of level 1 in the first call, beams of level 2 with their subtrees in the second."""
    second = k * (1 + subtree[1]) if len(subtree) > 1 else 0.0
    later = costs.later_call(np.array([second]), np.array([float(costs.batch)]))[0]
    return Forecast(float(costs.first_call(np.array([float(codes)]))[0] + later), 2.0, codes + second)


def cheapest(
    errors: DraftErrors | None,
    costs: CallCosts,
    *,
    k: int,
    levels: int,
    codes: int,
    subtree: FloatArray,
    most: Sequence[int],
    repair_nodes: int,
    max_nodes: int | None = None,
) -> tuple[Choice, dict[str, float]]:
    """The choice of least expected time, and the forecasts that it rests on.

    Args:
        errors: of the draft; None without one.
        costs: measured.
        k: list length.
        levels: length of an identifier.
        codes: nodes of level 1.
        subtree: see `DraftErrors`.
        most: nodes that the draft ranks at each level at most.
        repair_nodes: see `search.search`.
        max_nodes: mean nodes a request that a choice may need; None: as many as pay.
    """
    plain, trie = without_speculation(levels, k, costs), trie_alone(codes, k, costs, subtree)
    options: list[tuple[Forecast, Choice]] = [
        (plain, Choice(speculation="none")),
        (trie, Choice(speculation="trie", most=[codes], repair_nodes=repair_nodes)),
    ]
    if errors is not None:
        for limits in candidates(errors):
            made = forecast(limits, errors, costs, repair_nodes=repair_nodes)
            choice = Choice(
                speculation="draft",
                most=list(most),
                within=list(limits),
                ranked_levels=len(most),
                repair_nodes=repair_nodes,
            )
            options.append((made, choice))
    allowed = [option for option in options if max_nodes is None or option[0].nodes <= max_nodes] or options[:1]
    best, choice = min(allowed, key=lambda option: option[0].milliseconds)
    if best.milliseconds > GAIN * plain.milliseconds and max_nodes is None:
        best, choice = options[0]
    drafted = [made for made, option in options if option.speculation == "draft"]
    figures = {
        "milliseconds": best.milliseconds,
        "target_calls": best.calls,
        "target_nodes": best.nodes,
        "milliseconds_without_speculation": plain.milliseconds,
        "milliseconds_trie_alone": trie.milliseconds,
        "milliseconds_draft": costs.draft,
    }
    if drafted:
        figures["milliseconds_best_draft"] = min(made.milliseconds for made in drafted)
    return choice, {name: round(float(value), 4) for name, value in figures.items()}


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
    slope = (times[-1] - times[-2]) / (known[-1] - known[-2])
    return np.asarray(inside + np.maximum(0, at - known[-1]) * slope)
