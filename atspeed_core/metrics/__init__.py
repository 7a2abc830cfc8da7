"""Metrics, one file each: a number for every test user, averaged over all of them.

docs/extending.md shows how to add one. Figures of time (walltime speedup, latency) are none of these: they compare
alternatives on the same requests (`evaluation.speed`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atspeed_core.variants import Variants

Values = NDArray[np.float64] | pd.Series


@dataclass(frozen=True)
class Answers:
    """What a recommender answered to every test user.

    Attributes:
        items: recommended items of each user, best first, without duplicates; may be shorter than `k` or empty.
        targets: held-out items of each user, at least one; all count the same.
        k: length at which the lists are cut.
        search: one row per user: accepted_steps, target_calls, target_nodes; None for lists that were not decoded here.
    """

    items: Sequence[Sequence[str]]
    targets: Sequence[Sequence[str]]
    k: int
    search: pd.DataFrame | None = None

    @cached_property
    def relevance(self) -> dict[str, dict[str, int]]:
        """User's number -> held-out item -> 1, as ir-measures reads it."""
        return {str(user): dict.fromkeys(wanted, 1) for user, wanted in enumerate(self.targets)}

    @cached_property
    def ranks(self) -> dict[str, dict[str, float]]:
        """User's number -> recommended item -> score that falls with its place, as ir-measures reads it."""
        return {
            str(user): {item: -float(place) for place, item in enumerate(row)} for user, row in enumerate(self.items)
        }


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: that of its file; the key in results files and in MLflow.
        order: position in files and tables.
        label: heading of its column in a table.
        title: of its plot, and its name in the plot's axis.
        summary: one line.
        measure: answers -> one number per user, [users].
        of_lists: whether it depends on the lists alone, so that it is measured of every recommender; otherwise of
            decoding, and it reads `Answers.search`.
        digits: decimal places in tables.
        in_tables: whether tables show it; results files and MLflow contain every metric.
        compared: whether it is plotted by K, and recommenders are compared by it, user by user.
        judged: whether the gate refuses a challenger that is worse than the champion by it.
    """

    name: str
    order: int
    label: str
    title: str
    summary: str
    measure: Callable[[Answers], Values]
    of_lists: bool
    digits: int
    in_tables: bool = True
    compared: bool = False
    judged: bool = False


METRICS = Variants(__name__, Metric, "metric", order=lambda metric: metric.order)


def of_lists() -> list[Metric]:
    """The metrics of every recommender."""
    return [metric for metric in METRICS.all().values() if metric.of_lists]


def of_decoding() -> list[Metric]:
    """The metrics of how lists are decoded."""
    return [metric for metric in METRICS.all().values() if not metric.of_lists]


def measure_all(answers: Answers) -> dict[str, Values]:
    """Name -> [users] numbers, of every metric that `answers` allow."""
    measurable = of_lists() if answers.search is None else METRICS.all().values()
    return {metric.name: metric.measure(answers) for metric in measurable}


def search_column(answers: Answers, name: str) -> pd.Series:
    """A column of `answers.search`."""
    assert answers.search is not None
    return answers.search[name]
