"""Figures of a recommender's lists over all test users."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from atspeed_core.data.sequences import Example
from atspeed_core.evaluation.intervals import mean_figures
from atspeed_core.evaluation.lists import largest_swap_gap, same_lists, same_sets
from atspeed_core.metrics import METRICS, Answers, measure_all

PER_USER = ("user_id", "verification", "k", *METRICS.all(), "identical")  # columns of a draft's per-user figures


def per_user_figures(
    examples: Sequence[Example], lists: pd.DataFrame, reference: pd.DataFrame, k: int, verification: str
) -> pd.DataFrame:
    """One row per user: user_id, verification, k, every metric, identical.

    Args:
        examples: the test users.
        lists: our lists of the same users in the same order (see `lists.collect_lists`).
        reference: the reference lists, likewise; of sampled lists those that are sampled without speculation.
        k: length of the lists.
        verification: how they were decoded.
    """
    answers = Answers(lists["items"].tolist(), [example.targets for example in examples], k, search=lists)
    return pd.DataFrame(
        {
            "user_id": [example.user for example in examples],
            "verification": verification,
            "k": k,
            **measure_all(answers),
            "identical": same_lists(lists["items"], reference["items"]),
        }
    )


def list_figures(
    per_user: pd.DataFrame, lists: pd.DataFrame, reference: pd.DataFrame, *, samples: int, seed: int
) -> dict[str, Any]:
    """Means over the users with their 95% intervals, how many users, and how far the lists are from the reference."""
    return {
        **mean_figures(per_user, tuple(METRICS.all()), samples=samples, seed=seed),
        "users": len(per_user),
        "identical_lists": float(per_user["identical"].mean()),
        "identical_sets": float(np.mean(same_sets(lists["items"], reference["items"]))),
        "largest_swap_gap": largest_swap_gap(lists, reference),
    }


def published_figures(lists: pd.DataFrame, *, samples: int, seed: int) -> dict[str, Any]:
    """Accepted steps and calls of strict verification by the published scheme, and of how many users.

    This is what the paper's AS is: N beams per level drafted anew in every round, gamma levels per round.

    Args:
        lists: of `Recommender.search_as_published`, one row per user (see `lists.collect_lists`).
        samples: bootstrap samples.
        seed: of the bootstrap.
    """
    columns = {f"{name}_published": lists[name] for name in ("accepted_steps", "target_calls")}
    means = mean_figures(pd.DataFrame(columns), tuple(columns), samples=samples, seed=seed)
    return {**means, "published_users": len(lists)}
