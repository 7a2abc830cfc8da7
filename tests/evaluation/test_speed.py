"""Walltime speedup on a machine that is disturbed."""

import numpy as np
import pytest

from atspeed_core.evaluation.speed import paired_ratios, speedup, too_noisy

OPTIONS = {"samples": 500, "seed": 0}


def test_a_moment_of_other_work_changes_nothing() -> None:
    """All runs of one request take ten times as long, and so does one run of half of the others."""
    rng = np.random.default_rng(0)
    baseline = rng.uniform(2, 20, size=(24, 1)) * rng.normal(1, 0.01, size=(24, 3))
    alternative = baseline / 2
    baseline[0] *= 10
    alternative[0] *= 10
    alternative[1::2, 1] *= 10
    figures = speedup("ws", paired_ratios(baseline, alternative), **OPTIONS)
    assert figures["ws"] == pytest.approx(2)
    assert figures["ws_interval"] == pytest.approx([2, 2])


def test_requests_that_lack_an_alternative_are_left_out() -> None:
    baseline, alternative = np.array([[10.0], [10.0], [1000.0]]), np.array([[2.0], [2.0], [np.nan]])
    assert speedup("ws", paired_ratios(baseline, alternative), **OPTIONS) == {"ws": 5.0, "ws_interval": [5.0, 5.0]}


def test_the_ratio_is_of_neighbours_in_time() -> None:
    """The machine slows down tenfold from one repetition to the next."""
    slower = np.array([[1.0, 10.0, 100.0]])
    assert paired_ratios(3 * slower, slower).tolist() == [3.0]


@pytest.mark.parametrize(
    ("interval", "noisy"),
    [([3.6, 11.9], True), ([1.09, 2.20], True), ([1.1, 1.3], False), ([1.0, 1.0], False), ([0.0, 1.0], True)],
)
def test_an_interval_that_is_wide_means_nothing(interval: list[float], noisy: bool) -> None:
    assert too_noisy(interval) is noisy
