"""Evaluation of a draft: acceptance, speed, identity and ranking under every verification and K."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from atspeed_core.data.sequences import Example
from atspeed_core.decoding.plan import Plan
from atspeed_core.device import device_facts
from atspeed_core.evaluation.lists import choose_users, collect_lists, in_batches, lists_digest, same_lists
from atspeed_core.evaluation.measure import PER_USER, list_figures, per_user_figures, published_figures
from atspeed_core.evaluation.reference_times import GENERATE, NONE, ORACLE, REPETITIONS, WARMUPS, ReferenceTimes
from atspeed_core.evaluation.speed import BASELINE, paired_ratios, speedup
from atspeed_core.planning import Errors, errors_by_k, make_plan, with_nodes
from atspeed_core.progress import track
from atspeed_core.recommender import Recommender
from atspeed_core.settings import Evaluate
from atspeed_core.timing import latency, load_average, time_interleaved
from atspeed_core.verifications import VERIFICATIONS

Json = dict[str, Any]


@dataclass(frozen=True)
class TestPart:
    """What every draft is measured against.

    Attributes:
        examples: the test users.
        reference: K -> lists of transformers' generate for them, in the same order.
        times: times that need no draft.
    """

    __test__ = False  # no test case, whatever pytest makes of the name

    examples: Sequence[Example]
    reference: Mapping[int, pd.DataFrame]
    times: ReferenceTimes


@dataclass(frozen=True)
class CountedDraft:
    """What was measured of a draft without a clock.

    Attributes:
        errors: K -> how far the draft is off for the validation users.
        figures: verification -> K -> figures.
        calls_by_nodes: target calls and nodes, one row per K and number of drafted nodes.
        per_user: one row per test user measured, verification and K (see `measure.per_user_figures`).
    """

    errors: Errors
    figures: dict[str, dict[str, Json]]
    calls_by_nodes: list[Json]
    per_user: pd.DataFrame


@dataclass(frozen=True)
class TimedDraft:
    """What was measured of a draft with a clock.

    Attributes:
        plan: how to decode with this draft on this device.
        figures: verification -> K -> figures.
        facts: users, repetitions and the load average of the machine at each K.
    """

    plan: Plan
    figures: dict[str, dict[str, Json]]
    facts: Json


def count_draft(
    recommender: Recommender, validation: list[list[str]], test: TestPart, settings: Evaluate
) -> CountedDraft:
    """Measure what needs no clock: acceptance, identity and ranking on the test users, errors on validation users.

    Args:
        recommender: target and draft.
        validation: histories of validation users (see `validation_histories`).
        test: users, reference lists and times.
        settings: what is measured.
    """
    errors = errors_by_k(recommender, validation, settings.ks)
    figures, per_user = figures_of_lists(recommender, test, settings)
    return CountedDraft(errors, figures, calls_by_nodes(recommender, errors, test, settings), per_user)


def time_draft(
    recommender: Recommender, validation: list[list[str]], errors: Errors, test: TestPart, settings: Evaluate
) -> TimedDraft:
    """Plan how to decode on this device, and time requests that are decoded so; nothing else should run meanwhile.

    Args:
        recommender: target and draft.
        validation: histories of the users that the plan is made from (see `validation_histories`).
        errors: of the draft (see `CountedDraft`).
        test: users, reference lists and times.
        settings: what is measured.
    """
    planned = with_plan(recommender, validation, errors, settings)
    figures: dict[str, dict[str, Json]] = {name: {} for name in offered(recommender, settings)}
    load: dict[str, float | None] = {}
    for k in track(settings.ks, "times at each K"):
        load[str(k)] = load_average()
        for name, speeds in speeds_at(planned, test, k, settings).items():
            figures[name][str(k)] = speeds
    facts = {"users": len(test.times.users), "repetitions": REPETITIONS, "load_average": load}
    return TimedDraft(planned.plan, figures, facts)


def draft_result(
    recommender: Recommender, counted: CountedDraft, timed: TimedDraft, test: TestPart, settings: Evaluate
) -> Json:
    """The content of results/METHOD.json without the method's name."""
    return {
        "num_test_users": len(test.examples),
        "ks": settings.ks,
        "reference_sha256": lists_digest(test.reference),
        "device": device_facts(recommender.device, recommender.dtype),
        "draft": {"parameters": recommender.draft_parameters},
        "speedup_baseline": BASELINE,
        "timing": timed.facts,
        "plan": [row.model_dump() for row in timed.plan.planned],
        "verifications": {
            name: {k: figures | timed.figures[name][k] for k, figures in by_k.items()}
            for name, by_k in counted.figures.items()
        },
        "calls_by_nodes": counted.calls_by_nodes,
    }


def offered(recommender: Recommender, settings: Evaluate) -> list[str]:
    """Those of the verifications asked for that this draft can be decoded with."""
    return [name for name in settings.verifications if recommender.offers(name)]


def validation_histories(recommender: Recommender, examples: Sequence[Example], settings: Evaluate) -> list[list[str]]:
    """Histories of the validation users that plans are made from; those without a known item are left out."""
    known = recommender.catalog.position
    histories = [examples[user].history for user in choose_users(len(examples), settings.plan.users, settings.seed)]
    return [history for history in histories if any(item in known for item in history)]


def with_plan(recommender: Recommender, validation: list[list[str]], errors: Errors, settings: Evaluate) -> Recommender:
    """The recommender with a plan for this device, made on validation users."""
    plan = make_plan(
        recommender,
        validation,
        ks=settings.ks,
        batches=settings.plan.batches,
        prompt_percentiles=settings.plan.prompt_percentiles,
        repetitions=settings.plan.repetitions,
        errors=errors,
    )
    return replace(recommender, plan=plan)


def figures_of_lists(
    recommender: Recommender, test: TestPart, settings: Evaluate
) -> tuple[dict[str, dict[str, Json]], pd.DataFrame]:
    """Verification -> K -> figures that need no clock, and one row per user, verification and K.

    `recommender` has no plan: it drafts as many nodes on every device, so that accepted steps and calls can be
    compared.
    Lists are compared with the reference, or with the target's own samples of the same seed where the verification
    samples exactly. Lists that need not be the target's own are measured on `lossy_users` of the users.
    """
    names = offered(recommender, settings)
    figures: dict[str, dict[str, Json]] = {name: {} for name in names}
    frames = []
    options = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    all_users = list(range(len(test.examples)))
    some_users = choose_users(len(test.examples), settings.lossy_users or len(test.examples), settings.seed)
    for k in track(settings.ks, "lists at each K"):
        for name in names:
            users = all_users if VERIFICATIONS.get(name).lossless else some_users
            examples, wanted = [test.examples[user] for user in users], test.reference[k].iloc[users]
            lists = lists_at(recommender, examples, k, name, settings)
            if VERIFICATIONS.get(name).compared_with == "target_samples":
                wanted = lists_at(recommender.without_speculation(), examples, k, name, settings)
            frames.append(per_user_figures(examples, lists, wanted, k, name))
            figures[name][str(k)] = list_figures(frames[-1], lists, wanted, **options)
        in_rounds = [name for name in names if VERIFICATIONS.get(name).also_as_published]
        if in_rounds and recommender.drafts_in_rounds:
            published = published_figures(published_lists_at(recommender, test.examples, k, settings), **options)
            for name in in_rounds:
                figures[name][str(k)] |= published
    return figures, pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=PER_USER)


def speeds_at(recommender: Recommender, test: TestPart, k: int, settings: Evaluate) -> dict[str, Json]:
    """Verification -> latency in milliseconds, and ratios to no speculation, to the oracle's best and to generate.

    Where the plan speculates for none of the timing users, strict search is the very search of no speculation: it is
    not timed again, and its speedup is 1 by definition. `speculated` says which figures are of that kind.
    """
    user_of = {example.user: example for example in test.examples}
    histories = [user_of[user].history for user in test.times.users]
    reference = test.times.seconds[k]
    names = offered(recommender, settings)
    speculated = {name: speculates(recommender, name, histories, k) for name in names}
    timed = [name for name in names if speculated[name] or not _searches_as_none(name)]
    seconds = {NONE: reference[NONE]}
    if timed:
        runs = timed_requests(recommender, histories, k, timed, seed=settings.seed)
        seconds |= time_interleaved(runs, device=recommender.device, repetitions=REPETITIONS, warmups=WARMUPS)
    seconds = {**dict.fromkeys(names, seconds[NONE]), **seconds}
    ratio = partial(speedup, samples=settings.bootstrap_samples, seed=settings.seed)
    speeds = {}
    for name in names:
        gain = paired_ratios(seconds[NONE], seconds[name]) if name in timed else np.ones(len(histories))
        speeds[name] = {
            "speculated": speculated[name],
            **ratio("walltime_speedup", gain),
            **ratio("walltime_speedup_oracle", paired_ratios(reference[NONE], reference[ORACLE])),
            **ratio("walltime_speedup_vs_generate", gain * paired_ratios(reference[GENERATE], reference[NONE])),
            **latency(seconds[name]),
            "baseline_latency_ms_p50": latency(seconds[NONE])["latency_ms_p50"],
        }
    return speeds


def speculates(recommender: Recommender, name: str, histories: Sequence[list[str]], k: int) -> bool:
    """Whether any of these requests, each alone, is decoded with speculation under verification `name`."""
    if not VERIFICATIONS.get(name).planned:
        return name != NONE
    choices = (recommender.planned_choice(recommender.prepare([history], k)) for history in histories)
    return any(choice.speculation != "none" for choice in choices)


def timed_requests(
    recommender: Recommender, histories: Sequence[list[str]], k: int, verifications: Sequence[str], *, seed: int
) -> list[dict[str, Callable[[], object]]]:
    """The alternatives of each history, at batch 1, for `timing.time_interleaved`: "none" and each verification."""
    names = list(dict.fromkeys([NONE, *verifications]))
    return [
        {name: partial(recommender.recommend, [history], k, verification=name, seed=seed + number) for name in names}
        for number, history in enumerate(histories)
    ]


def calls_by_nodes(recommender: Recommender, errors: Errors, test: TestPart, settings: Evaluate) -> list[Json]:
    """Calls and nodes of strict lists where every request drafts a given number of nodes, one row per number and K.

    How they spread over the levels is chosen on validation users; no plan and no cost of the device enters.
    """
    curve = settings.calls_by_nodes
    users = choose_users(len(test.examples), curve.users or len(test.examples), settings.seed)
    chosen, rows = [test.examples[user] for user in users], []
    cells = [(k, nodes) for k in curve.ks if k in settings.ks and errors[k] is not None for nodes in curve.nodes]
    for k, nodes in track(cells, "calls against nodes"):
        drafting, expected = with_nodes(recommender, errors, k, nodes)
        lists = lists_at(drafting, chosen, k, "strict", settings)
        scored = lists["target_nodes"].to_numpy()
        identical = same_lists(lists["items"], test.reference[k]["items"].iloc[users])
        rows.append(
            {
                "k": k,
                "drafted_nodes": nodes,
                "target_calls_expected": expected,
                "target_calls": float(lists["target_calls"].mean()),
                "target_nodes": float(scored.mean()),
                "target_nodes_p95": float(np.percentile(scored, 95)),
                "identical_lists": float(np.mean(identical)),
                "users": len(chosen),
            }
        )
    return rows


def lists_at(
    recommender: Recommender, examples: Sequence[Example], k: int, verification: str, settings: Evaluate
) -> pd.DataFrame:
    """Lists of all `examples`, batch by batch; each batch has its own seed."""
    return collect_lists(
        lambda histories, first: recommender.recommend(
            histories, k, verification=verification, seed=settings.seed + first
        ),
        in_batches([example.history for example in examples], settings.batch_size),
    )


def published_lists_at(
    recommender: Recommender, examples: Sequence[Example], k: int, settings: Evaluate
) -> pd.DataFrame:
    """Lists of `published_users` test users by the published scheme, batch by batch."""
    users = choose_users(len(examples), settings.published_users or len(examples), settings.seed)
    return collect_lists(
        lambda histories, _: recommender.search_as_published(histories, k),
        in_batches([examples[user].history for user in users], settings.batch_size),
    )


def _searches_as_none(name: str) -> bool:
    """Whether a request that speculates nothing is searched as by verification "none": planned, and no samples."""
    verification = VERIFICATIONS.get(name)
    return verification.planned and verification.compared_with == "reference"
