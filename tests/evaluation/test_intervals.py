"""Bootstrap intervals beside a loop, and what they must hold."""

import numpy as np
import pandas as pd
import pytest

from atspeed_core.evaluation.intervals import mean_figures, mean_interval, median_interval

OPTIONS = {"samples": 4000, "seed": 1}


def test_interval_of_a_mean_is_that_of_a_naive_bootstrap() -> None:
    values = np.random.default_rng(0).exponential(size=200)
    rng = np.random.default_rng(5)
    means = [rng.choice(values, size=len(values)).mean() for _ in range(4000)]
    assert mean_interval(values, **OPTIONS) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)


def test_interval_of_a_median_does_not_see_outliers() -> None:
    values = np.append(np.random.default_rng(0).normal(2, 0.1, size=50), [1000.0, 1000.0])
    low, high = median_interval(values, **OPTIONS)
    assert 1.9 < low < 2 < high < 2.1


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
