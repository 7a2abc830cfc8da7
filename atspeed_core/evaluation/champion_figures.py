"""Evaluation of the champion on a night's test users: lists as it would serve them, speed and ranking."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from atspeed_core.data.sequences import Example
from atspeed_core.decoding.plan import Plan
from atspeed_core.evaluation.draft_figures import lists_at, timed_requests
from atspeed_core.evaluation.intervals import mean_figures
from atspeed_core.evaluation.lists import choose_users
from atspeed_core.evaluation.measure import per_user_figures
from atspeed_core.evaluation.reference_times import NONE, REPETITIONS, WARMUPS
from atspeed_core.evaluation.speed import paired_ratios, speedup
from atspeed_core.metrics import of_lists
from atspeed_core.progress import track
from atspeed_core.recommender import Recommender
from atspeed_core.settings import Evaluate
from atspeed_core.timing import latency, time_interleaved
from atspeed_core.verifications import primary

Json = dict[str, Any]

log = logging.getLogger(__name__)


def answerable(ks: Sequence[int], recommender: Recommender) -> list[int]:
    """Those of `ks` that are within the champion's draft beams and catalog."""
    longest = min(recommender.decoding.draft_beams, recommender.catalog.trie.num_leaves)
    if left_out := [k for k in ks if k > longest]:
        log.warning("K = %s skipped: the champion's lists have at most %d items", left_out, longest)
    return [k for k in ks if k <= longest]


def evaluate_champion(
    recommender: Recommender, examples: list[Example], settings: Evaluate
) -> tuple[Json, pd.DataFrame]:
    """K -> figures, and one row per user and K; lists and steps, like the challenger's, do not depend on a plan."""
    unplanned = replace(recommender, plan=Plan([], {}))
    figures: Json = {}
    frames = []
    known = [bool(recommender.catalog.known_items(example.history)) for example in examples]
    options = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    for k in track(settings.ks, "evaluate champion at each K"):
        frames.append(rows_at(unplanned, examples, known, k, settings))
        answered = frames[-1].loc[known, ["accepted_steps", "target_calls"]]
        figures[str(k)] = {
            **mean_figures(frames[-1], [metric.name for metric in of_lists()], **options),
            **{name: float(values.mean()) for name, values in answered.items()},
            **times_at(recommender, examples, known, k, settings),
        }
    return figures, pd.concat(frames, ignore_index=True)


def rows_at(
    recommender: Recommender, examples: list[Example], known: list[bool], k: int, settings: Evaluate
) -> pd.DataFrame:
    """One row per user: user_id, verification, k, every metric.

    A user without a known item in the history gets an empty list and no steps. Items that the champion does not know
    are skipped in histories and count as missed where they are held out.
    """
    verification = primary().name
    answered = lists_at(
        recommender, [e for e, is_known in zip(examples, known, strict=True) if is_known], k, verification, settings
    )
    lists = answered.set_axis(np.flatnonzero(known)).reindex(range(len(examples)))
    for column in ("items", "scores"):
        lists[column] = [row if isinstance(row, list) else [] for row in lists[column]]
    # The reference lists are the challenger's: there are none to compare these lists with.
    return per_user_figures(examples, lists, lists, k, verification).drop(columns="identical")


def times_at(recommender: Recommender, examples: list[Example], known: list[bool], k: int, settings: Evaluate) -> Json:
    """WS and latency on the users of the challenger's timing; {} where the champion knows fewer than two of them."""
    chosen = choose_users(len(examples), settings.timing_users, settings.seed)
    histories = [examples[user].history for user in chosen if known[user]]
    if len(histories) < 2:
        return {}
    name = primary().name
    requests = timed_requests(recommender, histories, k, [name], seed=settings.seed)
    seconds = time_interleaved(requests, device=recommender.device, repetitions=REPETITIONS, warmups=WARMUPS)
    options = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    return {
        **speedup("walltime_speedup", paired_ratios(seconds[NONE], seconds[name]), **options),
        **latency(seconds[name]),
    }
