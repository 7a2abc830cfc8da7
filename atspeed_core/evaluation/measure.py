"""What is measured of a recommender: its lists over all test users and its times beside the target's own search."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from atspeed_core.data.sequences import Example
from atspeed_core.evaluation.intervals import mean_figures
from atspeed_core.evaluation.lists import largest_swap_gap, same_lists, same_sets
from atspeed_core.evaluation.ranking import ranking_metrics
from atspeed_core.evaluation.speed import speedup
from atspeed_core.recommender import Recommender
from atspeed_core.timing import FloatArray, latency

MEANS = ("accepted_steps", "target_calls", "target_nodes", "recall", "ndcg")
PER_USER = ("user_id", "verification", "k", *MEANS, "identical")  # columns of a method's per-user figures


def timed_requests(
    recommender: Recommender,
    histories: Sequence[list[str]],
    k: int,
    verifications: Sequence[str],
    *,
    num_generate: int,
    seed: int,
) -> Iterator[dict[str, Callable[[], object]]]:
    """The alternatives of each history, at batch 1, for `speed.time_interleaved`.

    They are "none" (the baseline), each of `verifications`, "oracle" and, for the first `num_generate` histories,
    "generate".
    """
    for number, history in enumerate(histories):
        search = partial(recommender.recommend, [history], k, seed=seed + number)
        runs: dict[str, Callable[[], object]] = {
            name: partial(search, verification=name) for name in dict.fromkeys(["none", *verifications])
        }
        runs["oracle"] = recommender.prepare_oracle([history], k)
        if number < num_generate:
            runs["generate"] = partial(recommender.generate, [history], k)
        yield runs


def per_user_figures(
    examples: Sequence[Example], lists: pd.DataFrame, reference: pd.DataFrame, k: int, verification: str
) -> pd.DataFrame:
    """One row a user: user_id, verification, k, accepted_steps, target_calls, target_nodes, identical, recall, ndcg.

    Args:
        examples: the test users.
        lists: our lists of the same users in the same order (see `lists.collect_lists`).
        reference: the reference lists, likewise; of drawn lists those that are drawn without speculation.
        k: length of the lists.
        verification: how they were decoded.
    """
    recall, ndcg = ranking_metrics(lists["items"].tolist(), [example.targets for example in examples], k)
    return pd.DataFrame(
        {
            "user_id": [example.user for example in examples],
            "verification": verification,
            "k": k,
            "accepted_steps": lists["accepted_steps"],
            "target_calls": lists["target_calls"],
            "target_nodes": lists["target_nodes"],
            "identical": same_lists(lists["items"], reference["items"]),
            "recall": recall,
            "ndcg": ndcg,
        }
    )


def list_figures(
    per_user: pd.DataFrame, lists: pd.DataFrame, reference: pd.DataFrame, *, samples: int, seed: int
) -> dict[str, Any]:
    """Means over all test users with their 95% intervals, and how far the lists are from the reference."""
    return {
        **mean_figures(per_user, MEANS, samples=samples, seed=seed),
        "identical_lists": float(per_user["identical"].mean()),
        "identical_sets": float(np.mean(same_sets(lists["items"], reference["items"]))),
        "largest_swap_gap": largest_swap_gap(lists, reference),
    }


def published_figures(lists: pd.DataFrame, *, samples: int, seed: int) -> dict[str, Any]:
    """Accepted steps and calls of strict verification by the published scheme, and of how many users.

    This is what the paper's AS is: N beams a level drafted anew in every round, gamma levels a round.

    Args:
        lists: of `Recommender.search_as_published`, one row a user (see `lists.collect_lists`).
        samples: bootstrap samples.
        seed: of the bootstrap.
    """
    columns = {f"{name}_published": lists[name] for name in ("accepted_steps", "target_calls")}
    means = mean_figures(pd.DataFrame(columns), tuple(columns), samples=samples, seed=seed)
    return {**means, "published_users": len(lists)}


def speed_figures(seconds: Mapping[str, FloatArray], verification: str, *, samples: int, seed: int) -> dict[str, Any]:
    """Ratios to the target's own search, to the oracle's best and to generate; latency in milliseconds.

    Args:
        seconds: times of the alternatives of `timed_requests`, each [users, repetitions].
        verification: the alternative the figures are of.
        samples: bootstrap samples.
        seed: of the bootstrap.
    """
    ratio = partial(speedup, samples=samples, seed=seed)
    return {
        **ratio("walltime_speedup", seconds["none"], seconds[verification]),
        **ratio("walltime_speedup_oracle", seconds["none"], seconds["oracle"]),
        **ratio("walltime_speedup_vs_generate", seconds["generate"], seconds[verification]),
        **latency(seconds[verification]),
        "baseline_latency_ms_p50": latency(seconds["none"])["latency_ms_p50"],
    }
