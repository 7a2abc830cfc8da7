"""Walltime speedup: ratios of times, request by request, paired in time and robust to outliers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from atspeed_core.evaluation.intervals import FloatArray, median_interval, with_interval

BASELINE = "the target's own beam search, same engine, same process, batch 1"
NOISY = 1.5  # an interval whose ends differ by this factor cannot tell a gain from a loss


def paired_ratios(baseline: FloatArray, alternative: FloatArray) -> FloatArray:
    """Time of `baseline` / time of `alternative` for each request.

    Both are timed right after one another in every repetition, so that a slow moment of the machine falls on both.
    The ratio of a request is the median over its repetitions.

    Args:
        baseline: seconds, [requests, repetitions]; nan where a request lacks it.
        alternative: the same.

    Returns:
        [requests] float64, nan where a request lacks one of them.
    """
    return np.asarray(np.median(baseline / alternative, axis=1), dtype=np.float64)


def speedup(name: str, ratios: FloatArray, *, samples: int, seed: int) -> dict[str, Any]:
    """Median of the requests' ratios with its interval over requests.

    Args:
        name: key of the median in the result.
        ratios: see `paired_ratios`; requests that lack an alternative (nan) are left out.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        {name: median, name_interval: [low, high]}.
    """
    known = ratios[np.isfinite(ratios)]
    return with_interval(name, float(np.median(known)), median_interval(known, samples=samples, seed=seed))


def too_noisy(interval: Sequence[float]) -> bool:
    """Whether a ratio with this interval means nothing: other work disturbed it, or its requests are too few."""
    low, high = interval
    return not low > 0 or high / low > NOISY
