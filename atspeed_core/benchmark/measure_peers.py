"""Measurement of the peers: which cells, how many requests in each, and the figures of every row."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from time import perf_counter
from typing import Any, Literal

import numpy as np

from atspeed_core.benchmark.peers import (
    BASELINE,
    GENERATE,
    GENERATES,
    ORACLE,
    OURS,
    PEERS,
    PUBLISHED,
    Run,
    Stopwatches,
    obstacle,
    prepare,
)
from atspeed_core.benchmark.profiling import PeakMemory, Stopwatch
from atspeed_core.benchmark.targets import Target, load_target
from atspeed_core.decoding.plan import Plan
from atspeed_core.decoding.planner import DraftErrors
from atspeed_core.evaluation.speed import paired_ratios, speedup
from atspeed_core.planning import errors_by_k, make_plan
from atspeed_core.progress import track
from atspeed_core.recommender import Recommendation, Recommender
from atspeed_core.timing import Alternatives, FloatArray, latency, time_interleaved

Json = dict[str, Any]
PromptKind = Literal["short", "long"]
Histories = Sequence[Sequence[str]]

SHORT_ITEMS = 7  # items of the history in a short prompt; a long one has as many as the models accept
GENERATE_LEAST = 3  # generate is slow and its times vary little, so few requests are enough
PROFILED, PROFILED_SLOW = 3, 1  # profiled runs; the second number where a run takes longer than SLOW_SECONDS
SLOW_SECONDS = 0.5
PLAN_CALL_SHARE = 0.1  # the longest call whose cost the plan measures, as a share of the longest measured run


@dataclass(frozen=True)
class Grid:
    """Cells: every target with every kind of prompt, batch size and K."""

    targets: tuple[str, ...]
    prompts: tuple[PromptKind, ...]
    batches: tuple[int, ...]
    ks: tuple[int, ...]


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured and how long it may take.

    Attributes:
        grids: the cells.
        cell_seconds: approximate time of all timed runs of a cell.
        longest_seconds: a row whose single run takes longer is not measured.
        most_requests: most timed runs of a row at batch 1; larger batches have fewer, by the root of the batch size.
        least_requests: fewest timed runs, likewise.
        plan_users: validation users on whose lists the draft's errors are measured.
        plan_repetitions: timed calls at each point of the plan's cost curves.
        bootstrap_samples: for the intervals.
        seed: for the choice of users, random weights and the intervals.
    """

    grids: tuple[Grid, ...]
    cell_seconds: float
    longest_seconds: float
    most_requests: int
    least_requests: int
    plan_users: int
    plan_repetitions: int
    bootstrap_samples: int = 1000
    seed: int = 0


@dataclass
class Pace:
    """How long single runs took, and how long larger ones are expected to take.

    Attributes:
        grows: whether larger batches are expected to take longer; on a GPU they may not.
        known: peer -> (batch, K, seconds).
    """

    grows: bool
    known: dict[str, list[tuple[int, int, float]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, peer: str, batch: int, k: int, seconds: float) -> None:
        """Note that a run took `seconds`, or was skipped because it would take so long."""
        self.known[peer].append((batch, k, seconds))

    def expected(self, peer: str, batch: int, k: int) -> float:
        """Seconds, from the nearest smaller run; 0 where none is known. Only generate computes the prompt K times."""
        smaller = [run for run in self.known[peer] if run[0] <= batch and run[1] <= k]
        if not smaller:
            return 0.0
        near_batch, near_k, seconds = max(smaller)
        growth = batch / near_batch * (k / near_k if peer in GENERATES else 1.0)
        return seconds * growth if self.grows else seconds


@dataclass(frozen=True)
class Users:
    """Requests of one kind.

    Attributes:
        prompt: "short" or "long".
        histories: of test users, in random order.
        tokens: mean length of their prompts.
        valid: histories of validation users with such prompts, for the plan.
        errors: K -> the draft's errors for these.
    """

    prompt: PromptKind
    histories: Histories
    tokens: float
    valid: Histories
    errors: Mapping[int, DraftErrors | None]

    def batch(self, number: int, size: int) -> Histories:
        """The requests of one run; users occur again where there are too few."""
        return [self.histories[i % len(self.histories)] for i in range(number * size, (number + 1) * size)]


def measure_peers(trained: Recommender, test: Histories, valid: Histories, settings: BenchmarkSettings) -> Json:
    """All rows.

    Args:
        trained: target and draft of the project.
        test: histories of the test users, the requests.
        valid: histories of the validation users, for the plans.
        settings: what is measured, and for how long.

    Returns:
        {"targets": facts by name, "prompts": facts by kind, "rows": one per target, prompt, batch, K and peer}.
    """
    ks = tuple(sorted({k for grid in settings.grids for k in grid.ks}))
    kinds = dict.fromkeys(prompt for grid in settings.grids for prompt in grid.prompts)
    users = {kind: users_of(kind, trained, test, valid, ks, settings) for kind in kinds}
    facts: dict[str, Json] = {}
    rows: list[Json] = []
    for grid in settings.grids:
        for name in grid.targets:
            target = load_target(name, trained, seed=settings.seed)
            facts[name] = target.facts
            for prompt in grid.prompts:
                rows += list(target_rows(target, users[prompt], grid, settings))
    prompts = {kind: {"mean_tokens": u.tokens, "test_users": len(u.histories)} for kind, u in users.items()}
    return {"targets": facts, "prompts": prompts, "rows": [_rounded(row) for row in rows]}


def users_of(
    kind: PromptKind,
    trained: Recommender,
    test: Histories,
    valid: Histories,
    ks: Sequence[int],
    settings: BenchmarkSettings,
) -> Users:
    """Test and validation users whose histories are closest to the length of a kind of prompt."""
    items = SHORT_ITEMS if kind == "short" else trained.encoder.max_history
    largest = max(batch * _scaled(settings.most_requests, batch) for grid in settings.grids for batch in grid.batches)
    chosen = nearest(trained, test, items, largest, settings.seed)
    planned_for = nearest(trained, valid, items, settings.plan_users, settings.seed)
    tokens = float(trained.encode(chosen)[1].sum(1).double().mean())
    return Users(kind, chosen, tokens, planned_for, errors_by_k(trained, planned_for, ks))


def nearest(recommender: Recommender, histories: Histories, items: int, count: int, seed: int) -> Histories:
    """`count` of the histories (or all) whose number of known items is closest to `items`, in random order."""
    lengths = np.array([len(recommender.encoder.known(history)) for history in histories])
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(np.flatnonzero(lengths))
    order = shuffled[np.argsort(np.abs(lengths[shuffled] - items), kind="stable")][:count]
    return [histories[i] for i in rng.permutation(order)]


def target_rows(target: Target, users: Users, grid: Grid, settings: BenchmarkSettings) -> Iterator[Json]:
    """The rows of one target and kind of prompt, small cells first: they show how long large ones will take."""
    pace = Pace(grows=target.trained.device.type == "cpu")
    cells = [(batch, k) for batch in sorted(grid.batches) for k in sorted(grid.ks)]
    planned: dict[int, Target] = {}
    for batch, k in track(cells, f"{target.name}, {users.prompt} prompts"):
        place = {"target": target.name, "prompt": users.prompt, "batch": batch, "k": k}
        expected = pace.expected(BASELINE, batch, k)
        if expected > settings.longest_seconds:
            pace.add(BASELINE, batch, k, expected)
            for peer in PEERS:
                yield {**place, "peer": peer, "skipped": f"the baseline would take about {expected:.0f} s per run"}
            continue
        if batch not in planned:
            planned[batch] = target.with_plan(plan_for(target, users, grid.ks, batch, settings))
        for row in cell_rows(planned[batch], users, batch, k, pace, settings):
            yield {**place, **row}


def plan_for(target: Target, users: Users, ks: Sequence[int], batch: int, settings: BenchmarkSettings) -> Plan:
    """A plan for one kind of prompt and batch size, from costs of the timed model and errors of the trained pair."""
    return make_plan(
        target.trained,
        users.valid,
        ks=ks,
        batches=[batch],
        prompt_percentiles=[50],
        repetitions=settings.plan_repetitions,
        timed=target.timed,
        errors=users.errors,
        longest_call=PLAN_CALL_SHARE * settings.longest_seconds,
    )


def cell_rows(
    target: Target, users: Users, batch: int, k: int, pace: Pace, settings: BenchmarkSettings
) -> Iterator[Json]:
    """One row per peer: its figures, or the reason why it was not measured."""
    skipped: dict[str, str] = {}
    counts: dict[str, int] = {}
    for peer in PEERS:
        expected, reason = pace.expected(peer, batch, k), obstacle(peer, target, k)
        if reason is None and expected > settings.longest_seconds:
            pace.add(peer, batch, k, expected)
            reason = f"a run would take about {expected:.0f} s, as expected from an earlier cell"
        if reason is None:
            seconds = probe(prepare(peer, target, users.batch(0, batch), k))
            pace.add(peer, batch, k, seconds)
            counts[peer] = num_requests(peer, seconds, batch, settings)
            reason = f"a run takes {seconds:.0f} s" if seconds > settings.longest_seconds else None
        if reason is not None:
            counts.pop(peer, None)
            skipped[peer] = reason
    answers: dict[str, dict[int, Recommendation]] = {peer: {} for peer in counts}
    seconds_of = (
        time_interleaved(
            requests(target, users, batch, k, counts, answers),
            device=target.trained.device,
            repetitions=1,
            warmups=0,  # the probes warmed up
        )
        if counts
        else {}
    )
    for peer in PEERS:
        if peer in skipped:
            yield {"peer": peer, "skipped": skipped[peer]}
            continue
        yield {
            "peer": peer,
            "runs": counts[peer],
            **latency(seconds_of[peer]),
            **ratios(peer, seconds_of, settings),
            **target_work(peer, list(answers[peer].values())),
            **profile(peer, target, [users.batch(i, batch) for i in range(num_profiled(seconds_of[peer]))], k),
            **(plan_facts(target, batch, k) if peer == OURS else {}),
            **({"draft_beams": target.trained.decoding.draft_beams} if peer == PUBLISHED else {}),
        }


def requests(
    target: Target,
    users: Users,
    batch: int,
    k: int,
    counts: Mapping[str, int],
    answers: Mapping[str, dict[int, Recommendation]],
) -> Iterator[Alternatives]:
    """The runs of a cell, one batch of requests after the other; their results are added to `answers`."""

    def keep(peer: str, number: int, run: Run) -> None:
        answers[peer][number] = run()

    for number in range(max(counts.values())):
        histories = users.batch(number, batch)
        yield {
            peer: partial(keep, peer, number, prepare(peer, target, histories, k))
            for peer, count in counts.items()
            if number < count
        }


def probe(run: Run) -> float:
    """Seconds of a warm run: the second one, if the first is short."""
    seconds = _seconds(run)
    return _seconds(run) if seconds < 1 else seconds


def num_requests(peer: str, seconds: float, batch: int, settings: BenchmarkSettings) -> int:
    """Timed runs of a row: as many as its share of the cell's time allows, within bounds."""
    least, most = (_scaled(count, batch) for count in (settings.least_requests, settings.most_requests))
    least = min(least, GENERATE_LEAST) if peer in GENERATES else least
    return min(most, max(least, int(settings.cell_seconds / len(PEERS) / seconds)))


def num_profiled(seconds: FloatArray) -> int:
    """Number of profiled runs for a row whose timed runs took `seconds`."""
    return PROFILED if np.nanmedian(seconds) < SLOW_SECONDS else PROFILED_SLOW


def ratios(peer: str, seconds: Mapping[str, FloatArray], settings: BenchmarkSettings) -> Json:
    """Median ratio of the baseline's time, and of generate's, to the peer's; and of the oracle's to the peer's."""
    options = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    figures: Json = {}
    for name, other in (("walltime_speedup", BASELINE), ("walltime_speedup_vs_generate", GENERATE)):
        if other in seconds and peer != other:
            figures |= speedup(name, paired_ratios(seconds[other], seconds[peer]), **options)
    if ORACLE in seconds:
        figures["share_of_oracle"] = float(np.nanmedian(paired_ratios(seconds[ORACLE], seconds[peer])))
    return figures


def target_work(peer: str, answers: Sequence[Recommendation]) -> Json:
    """Mean target calls and nodes per request; for generate nodes are not counted."""
    calls = {"target_calls": float(np.mean([answer.target_calls for answer in answers]))}
    if peer in GENERATES:
        return calls
    return {**calls, "target_nodes": float(np.mean([answer.target_nodes for answer in answers]))}


def profile(peer: str, target: Target, batches: Sequence[Histories], k: int) -> Json:
    """Shares of the time by model, and peak memory, of separate runs, since the clocks would slow the timed ones."""
    device = target.trained.device
    clocks, whole = Stopwatches(Stopwatch(device), Stopwatch(device)), Stopwatch(device)
    memory = PeakMemory(device)
    runs = [prepare(peer, target, histories, k, clocks) for histories in batches]
    clocks.target.seconds = clocks.draft.seconds = 0.0
    with memory:
        for run in runs:
            with whole.running():
                run()
    shares = {"draft": clocks.draft.seconds / whole.seconds, "target": clocks.target.seconds / whole.seconds}
    return {
        **{f"time_share_{name}": share for name, share in shares.items()},
        "time_share_selection": 1 - sum(shares.values()),
        "peak_memory_mib": memory.mib,
    }


def plan_facts(target: Target, batch: int, k: int) -> Json:
    """The plan's choice for a cell, and the forecast that it is based on."""
    (planned,) = (row for row in target.trained.plan.planned if row.k == k and row.batch == batch)
    return {"plan": {"choice": planned.choice.model_dump(), "predicted": planned.predicted}}


def _scaled(count: int, batch: int) -> int:
    return max(2, round(count / sqrt(batch)))


def _seconds(run: Run) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def _rounded(value: Any) -> Any:
    """`value` with every float rounded to five digits."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
