"""Making a plan for a recommender on the device at hand, from requests of validation users."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atspeed_core.decoding.beam_rules import BestScore
from atspeed_core.decoding.plan import Choice, Plan, Planned, Trial
from atspeed_core.decoding.planner import (
    CallCosts,
    DraftErrors,
    FloatArray,
    Forecast,
    fewest_calls,
    measure_errors,
    median_milliseconds,
    shortlist,
)
from atspeed_core.decoding.proposals import Quotas, rank
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import ROUNDING, SearchResult, beam_search, begin
from atspeed_core.device import device_facts
from atspeed_core.progress import track
from atspeed_core.recommender import Recommender, Request
from atspeed_core.timing import synchronize, time_interleaved

MOST_RANKED = 400  # nodes of a level that a draft may propose
NODE_GRID = (0, 1, 16, 48, 96, 192, 384)  # a later call of 0 nodes costs nothing, one of 1 most of what 16 cost
LEAST_POINTS = 3  # of a cost curve: its end is extrapolated from the last two
ERROR_BATCH = 32
USUAL_K = 10  # beams of the verification that is timed with a call
TRIALS, TRIALS_OF_A_BATCH = 16, 2  # requests, or batches of them, on which the shortlist is tried; as many confirm
HOPELESS = 1.3  # times the forecast of no speculation: not tried
GAIN = 0.95  # speculation must gain at least this much: below that the difference is noise

Histories = Sequence[Sequence[str]]
Errors = Mapping[int, DraftErrors | None]


def make_plan(  # noqa: PLR0913 - one per condition of a plan; planning is to be rebuilt
    recommender: Recommender,
    histories: Histories,
    *,
    ks: Sequence[int],
    batches: Sequence[int],
    prompt_percentiles: Sequence[int],
    repetitions: int,
    timed: Recommender | None = None,
    errors: Errors | None = None,
    longest_call: float = 1.0,
) -> Plan:
    """Measure costs and the draft's errors and choose for every prompt length, K and batch size.

    Args:
        recommender: its own plan is not looked at.
        histories: of validation users; the choice must not see test users.
        ks: list lengths.
        batches: requests in one call.
        prompt_percentiles: of the histories' prompt lengths; each is planned for with the histories nearest to it.
        repetitions: timed calls per point of the cost curve.
        timed: whose target's calls are timed, if not the recommender's own.
        errors: of the draft at each K, if known already (see `errors_by_k`).
        longest_call: seconds; see `measure_costs`.
    """
    timed = timed or recommender
    recommender.encode(histories)  # a history without a known item is an error here, not midway
    lengths = np.array([len(recommender.encoder.known(history)) for history in histories])
    subtree = mean_subtrees(recommender)
    errors = errors_by_k(recommender, histories, ks) if errors is None else errors
    planned, curves = [], []
    kinds = [(p, b) for p in sorted({int(np.percentile(lengths, p)) for p in prompt_percentiles}) for b in batches]
    for length, batch in track(kinds, "costs by prompt length and batch size"):
        order = np.argsort(np.abs(lengths - length), kind="stable")
        chosen = [histories[i] for i in np.resize(order, batch).tolist()]
        curve = measure_costs(timed, chosen, repetitions, longest_call=longest_call)
        tokens = int(recommender.encode(chosen)[0].shape[1])
        curves.append({"prompt_tokens": tokens, "batch": batch, **{n: list(np.round(t, 3)) for n, t in curve.items()}})
        for k in ks:
            costs = CallCosts(**curve, **draft_costs(recommender, chosen, k, repetitions), batch=batch)
            options = shortlist(
                errors[k],
                costs,
                k=k,
                levels=recommender.trie.num_levels,
                codes=recommender.trie.max_children_at[0],
                subtree=subtree,
                most=ranked_most(recommender, k),
            )
            nearest = [
                histories[i] for i in order[: 2 * (TRIALS if batch == 1 else batch * TRIALS_OF_A_BATCH)].tolist()
            ]
            planned.append(tried(recommender, timed, options, nearest, prompt_tokens=tokens, k=k, batch=batch))
    return Plan(planned, {**plan_facts(timed, len(histories)), "cost_curves": curves})


def errors_by_k(recommender: Recommender, histories: Histories, ks: Sequence[int]) -> Errors:
    """How far the draft is off for these users at every K."""
    subtree = mean_subtrees(recommender)
    return {k: draft_errors(recommender, histories, k, subtree) for k in track(ks, "errors of the draft at each K")}


def with_nodes(recommender: Recommender, errors: Errors, k: int, nodes: int) -> tuple[Recommender, float]:
    """The recommender, drafting `nodes` nodes for every request of `k` items, and the calls expected of it.

    How the nodes spread over the levels is what needs the fewest calls by `errors` (see `errors_by_k`).
    """
    known = errors[k]
    assert known is not None
    choice, calls = fewest_calls(known, nodes, most=ranked_most(recommender, k))
    return replace(recommender, plan=Plan([Planned(prompt_tokens=0, k=k, batch=1, choice=choice)], {})), calls


def plan_facts(recommender: Recommender, users: int) -> dict[str, Any]:
    """What the plan was made with."""
    return {
        "device": device_facts(recommender.device, recommender.dtype),
        "threads": torch.get_num_threads(),
        "target_parameters": recommender.target_parameters,
        "draft_parameters": recommender.draft_parameters,
        "validation_users": users,
        "units": "milliseconds for a whole batch; calls and nodes for a request",
    }


def ranked_most(recommender: Recommender, k: int) -> tuple[int, ...]:
    """Nodes that the draft ranks at each level at most."""
    return (max(k, MOST_RANKED),) * (recommender.trie.num_levels - 1)


def mean_subtrees(recommender: Recommender) -> FloatArray:
    """For depth 1 .. L - 1: mean number of inner nodes below a node."""
    sizes = np.diff(recommender.catalog.trie.depth_start)[1:]  # of depth 1 .. L
    inner = sizes[:-1]
    return np.array([inner[depth + 1 :].sum() / inner[depth] for depth in range(len(inner))])


@torch.inference_mode()
def draft_errors(recommender: Recommender, histories: Histories, k: int, subtree: FloatArray) -> DraftErrors | None:
    """How the draft ranks the target's beams for these users; None without a draft."""
    if recommender.draft is None or recommender.trie.num_levels == 1:
        return None
    most = ranked_most(recommender, k)
    quotas = Quotas(most, (float("inf"),) * len(most), len(most))
    parts = []
    for start in range(0, len(histories), ERROR_BATCH):
        request = recommender.prepare(histories[start : start + ERROR_BATCH], k)
        tree = recommender.target_tree(request)
        found = beam_search(tree, k)
        rule = recommender.drafting_rule(request, BestScore())
        levels = rank(recommender.prefixes(request), quotas, rule, k, len(request.ids))
        parts.append(measure_errors(found.beams, needed_beams(found, tree), levels, subtree))
    return DraftErrors(
        np.concatenate([part.beams for part in parts], axis=1),
        [_stacked([part.levels[i] for part in parts]) for i in range(len(most))],
        subtree,
    )


def needed_beams(found: SearchResult, tree: ScoredTree) -> Tensor:
    """[B, L - 1, K] bool: beams without which the next level could not be decided (see `search.finish`).

    Args:
        found: a search without speculation.
        tree: where it happened.
    """
    nodes = found.beams.flatten(1)
    scores = tree.path_scores(nodes).masked_fill(nodes < 0, -torch.inf).view(found.beams.shape)
    after = torch.cat([scores[:, 1:], found.scores.unsqueeze(1)], dim=1)
    return (found.beams >= 0) & (scores >= after.amin(2, keepdim=True) - ROUNDING)


@torch.inference_mode()
def measure_costs(
    recommender: Recommender, histories: Histories, repetitions: int, *, longest_call: float = float("inf")
) -> dict[str, FloatArray]:
    """Median milliseconds of first and later calls at `NODE_GRID` nodes, as `CallCosts` wants them.

    Beyond the first number of nodes (three at least) at which a first call takes `longest_call` seconds none is timed.
    """
    request, clock = recommender.prepare(histories, USUAL_K), _clock(recommender.device)
    single = request.select(torch.zeros(1, dtype=torch.long, device=recommender.device))
    available = recommender.trie.depth_start[-2] - 1  # inner nodes without the root
    grid = sorted({min(nodes, available) for nodes in NODE_GRID})
    inner = torch.arange(1, available + 1, device=recommender.device)

    def first(nodes: int) -> Callable[[], object]:
        tree, proposal = recommender.target_tree(request), inner[:nodes].expand(len(request.ids), -1)
        return lambda: begin(tree, proposal, request.k, BestScore())

    def later(of: Request, nodes: int) -> Callable[[], object]:
        tree = recommender.target_tree(of)
        tree.score_new(inner[:0].expand(len(of.ids), -1))
        proposal = inner[:nodes].expand(len(of.ids), -1)
        return lambda: begin(tree, proposal, of.k, BestScore())

    def timed(prepare: Callable[[int], Callable[[], object]]) -> FloatArray:
        times: list[float] = []
        for nodes in grid:
            times.append(median_milliseconds(partial(prepare, nodes), clock, repetitions))
            if len(times) >= LEAST_POINTS and times[-1] > 1000 * longest_call:
                break
        return np.array(times)

    first_times = timed(first)
    grid = grid[: len(first_times)]
    later_times = timed(partial(later, request))
    single_times = timed(partial(later, single)) if len(request.ids) > 1 else later_times
    points = min(len(later_times), len(single_times))
    return {
        "nodes": np.array(grid[:points], dtype=float),
        "first": first_times[:points],
        "later": later_times[:points],
        "later_single": single_times[:points],
    }


@torch.inference_mode()
def draft_costs(recommender: Recommender, histories: Histories, k: int, repetitions: int) -> dict[str, FloatArray]:
    """Median milliseconds of ranking few and many nodes for these requests, as `CallCosts` wants them."""
    number = recommender.trie.num_levels - 1
    if recommender.draft is None or not number:
        return {"draft_nodes": np.zeros(1), "draft": np.zeros(1)}
    request, clock = recommender.prepare(histories, k), _clock(recommender.device)
    nodes, times = [], []
    for each in (k, 4 * k + 40):
        choice = Choice(speculation="draft", most=[each] * number, ranked_levels=number)
        width = recommender.proposal(request, BestScore(), choice).shape[1]
        nodes.append(float(width))
        prepared = lambda choice=choice: lambda: recommender.proposal(request, BestScore(), choice)  # noqa: E731
        times.append(median_milliseconds(prepared, clock, repetitions))
    if nodes[1] <= nodes[0]:
        nodes, times = nodes[:1], times[:1]
    return {"draft_nodes": np.array(nodes), "draft": np.array(times)}


def tried(
    recommender: Recommender,
    timed: Recommender,
    options: Sequence[tuple[Forecast, Choice]],
    histories: Histories,
    *,
    prompt_tokens: int,
    k: int,
    batch: int,
) -> Planned:
    """The fastest of `options` on batches of `histories`, run alongside each other.

    Speculation has to gain: what is fastest on the first half of the batches is run beside none, the first option, on
    the second half, for the best of several is partly luck. Where the timed target is not the recommender's own (its
    lists, and so the calls, would not be those of the draft), the forecasts decide.
    """
    options = [option for option in options if option[0].milliseconds <= HOPELESS * options[0][0].milliseconds]
    choices = [choice for _, choice in options]
    if timed is recommender:
        half = -(-len(histories) // (2 * batch)) * batch
        times = mean_milliseconds(recommender, choices, histories[:half], k=k, batch=batch)
        best = int(np.argmin(times))
        again = mean_milliseconds(
            recommender, [choices[0], choices[best]], histories[half:] or histories, k=k, batch=batch
        )
    else:
        times = [made.milliseconds for made, _ in options]
        best = int(np.argmin(times))
        again = [times[0], times[best]]
    if again[1] > GAIN * again[0]:
        best = 0
    trials = [
        Trial(choice=choice, predicted=made.figures, milliseconds=round(time, 4) if timed is recommender else None)
        for (made, choice), time in zip(options, times, strict=True)
    ]
    return Planned(
        prompt_tokens=prompt_tokens,
        k=k,
        batch=batch,
        choice=trials[best].choice,
        predicted=trials[best].predicted,
        tried=trials,
    )


def mean_milliseconds(
    recommender: Recommender, choices: Sequence[Choice], histories: Histories, *, k: int, batch: int
) -> list[float]:
    """Mean time of a batch of `histories` with each of `choices`, interleaved."""
    starts = range(0, len(histories), batch)
    batches = [[histories[i % len(histories)] for i in range(start, start + batch)] for start in starts]
    runs = [
        {str(n): partial(recommender.speculate, request, BestScore(), choice) for n, choice in enumerate(choices)}
        for request in (recommender.prepare(chosen, k) for chosen in batches)
    ]
    seconds = time_interleaved(runs, device=recommender.device, repetitions=1, warmups=1)
    return [float(np.mean(seconds[str(n)])) * 1000 for n in range(len(choices))]


def _clock(device: torch.device) -> Callable[[], float]:
    def seconds() -> float:
        synchronize(device)
        return time.perf_counter()

    return seconds


def _stacked(parts: Sequence[FloatArray]) -> FloatArray:
    """[depth, U, n] the parts' [depth, users, n'] side by side, as wide as the widest."""
    width = max(part.shape[2] for part in parts)
    missing = [((0, 0), (0, 0), (0, width - part.shape[2])) for part in parts]
    return np.concatenate([np.pad(p, m, constant_values=np.inf) for p, m in zip(parts, missing, strict=True)], axis=1)
