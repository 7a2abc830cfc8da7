"""Bootstrap intervals over users: of a mean and of a median."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap

FloatArray = NDArray[np.float64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES_AT_ONCE = 100  # bounds the memory to this many times the number of users


def mean_interval(values: FloatArray, *, samples: int, seed: int) -> Interval:
    """95% percentile interval of the mean of `values` [users], two at least."""
    return _interval((values,), _mean, samples, seed)


def median_interval(values: FloatArray, *, samples: int, seed: int) -> Interval:
    """95% percentile interval of the median of `values` [users], two at least."""
    return _interval((values,), _median, samples, seed)


def with_interval(name: str, value: float, interval: Interval) -> dict[str, Any]:
    """{"name": value, "name_interval": [low, high]}, as it stands in the results files."""
    return {name: value, f"{name}_interval": list(interval)}


def mean_figures(frame: pd.DataFrame, names: Sequence[str], *, samples: int, seed: int) -> dict[str, Any]:
    """{name: mean, name_interval: [low, high]} of the named columns of `frame`, one row per user."""
    figures: dict[str, Any] = {}
    for name in names:
        values = frame[name].to_numpy(dtype=np.float64)
        figures |= with_interval(name, float(values.mean()), mean_interval(values, samples=samples, seed=seed))
    return figures


def _interval(data: tuple[FloatArray, ...], statistic: Callable[..., Any], samples: int, seed: int) -> Interval:
    interval = bootstrap(
        data,
        statistic,
        n_resamples=samples,
        batch=RESAMPLES_AT_ONCE,
        vectorized=True,
        paired=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _mean(values: FloatArray, axis: int) -> Any:
    return values.mean(axis=axis)


def _median(values: FloatArray, axis: int) -> Any:
    return np.median(values, axis=axis)
