"""Bootstrap intervals beside a loop, and what they must hold."""

import numpy as np
import pandas as pd
import pytest

from atspeed_core.evaluation.intervals import mean_figures, mean_interval, ratio_interval, ratio_of_sums

OPTIONS = {"samples": 4000, "seed": 1}


def test_interval_of_a_mean_is_that_of_a_naive_bootstrap() -> None:
    values = np.random.default_rng(0).exponential(size=200)
    rng = np.random.default_rng(5)
    means = [rng.choice(values, size=len(values)).mean() for _ in range(4000)]
    assert mean_interval(values, **OPTIONS) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)


def test_interval_of_a_ratio_resamples_users_in_pairs() -> None:
    theirs = np.random.default_rng(0).uniform(1, 100, size=50)
    low, high = ratio_interval(theirs, theirs / 2, **OPTIONS)
    assert (low, high) == pytest.approx((2, 2))  # unpaired resampling would spread


def test_ratio_is_of_the_sums_and_not_the_mean_of_ratios() -> None:
    assert ratio_of_sums(np.array([1.0, 9.0]), np.array([1.0, 3.0])) == 2.5


def test_same_seed_same_interval() -> None:
    values = np.arange(30.0)
    assert mean_interval(values, **OPTIONS) == mean_interval(values, **OPTIONS)
    assert mean_interval(values, **OPTIONS) != mean_interval(values, samples=4000, seed=2)


def test_about_95_of_100_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(3)
    intervals = [mean_interval(rng.normal(size=80), samples=300, seed=n) for n in range(200)]
    assert 0.88 <= np.mean([low <= 0 <= high for low, high in intervals]) <= 0.99


def test_figures_of_a_frame() -> None:
    figures = mean_figures(pd.DataFrame({"steps": [1, 1], "other": [0, 9]}), ["steps"], **OPTIONS)
    assert figures == {"steps": 1.0, "steps_interval": [1.0, 1.0]}
