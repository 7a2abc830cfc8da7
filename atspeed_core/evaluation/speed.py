"""Speed as a ratio of times, with its interval over requests."""

from typing import Any

import numpy as np

from atspeed_core.evaluation.intervals import ratio_interval, ratio_of_sums, with_interval
from atspeed_core.timing import FloatArray

BASELINE = "the target's own beam search, same engine, same process, batch 1"


def speedup(name: str, baseline: FloatArray, alternative: FloatArray, *, samples: int, seed: int) -> dict[str, Any]:
    """Summed time of `baseline` / summed time of `alternative`, with its interval over requests.

    Args:
        name: key of the ratio in the result.
        baseline: seconds, [requests, repetitions]; requests that either one lacks (nan) are left out.
        alternative: the same.
        samples: bootstrap samples.
        seed: of the bootstrap.

    Returns:
        {name: ratio, name_interval: [low, high]}.
    """
    shared = np.isfinite(baseline).all(axis=1) & np.isfinite(alternative).all(axis=1)
    ours, theirs = alternative[shared].sum(axis=1), baseline[shared].sum(axis=1)
    interval = ratio_interval(theirs, ours, samples=samples, seed=seed)
    return with_interval(name, ratio_of_sums(theirs, ours), interval)
