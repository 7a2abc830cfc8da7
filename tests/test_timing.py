"""Interleaved timing with a clock that the alternatives move themselves."""

import gc

import numpy as np
import pytest
import torch

from atspeed_core.timing import Alternatives, latency, rotated, time_interleaved

CPU = torch.device("cpu")


class Clock:
    """Time passes only where an alternative runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, seconds: float) -> None:
        self.order.append(name)
        self.now += seconds


def test_times_belong_to_their_alternative_and_warm_up_is_left_out() -> None:
    clock = Clock()
    slow_start = iter([50.0, 50.0, *[3.0] * 10])
    requests = [{"a": lambda: clock.run("a", 1.0), "b": lambda: clock.run("b", next(slow_start))}] * 2
    seconds = time_interleaved(requests, device=CPU, repetitions=3, warmups=2, clock=clock)
    np.testing.assert_array_equal(seconds["a"], np.full((2, 3), 1.0))
    np.testing.assert_array_equal(seconds["b"], np.full((2, 3), 3.0))


def test_every_alternative_runs_equally_often_in_every_place() -> None:
    clock = Clock()
    requests = [{name: lambda name=name: clock.run(name, 1.0) for name in "abc"}] * 3
    time_interleaved(requests, device=CPU, repetitions=3, warmups=0, clock=clock)
    turns = [tuple(clock.order[start : start + 3]) for start in range(0, 27, 3)]
    assert sorted(turns) == sorted([("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")] * 3)


def test_preparation_is_not_timed() -> None:
    clock = Clock()

    def prepared() -> Alternatives:
        clock.now += 100
        return {"a": lambda: clock.run("a", 1.0)}

    seconds = time_interleaved((prepared() for _ in range(2)), device=CPU, repetitions=1, warmups=1, clock=clock)
    assert seconds["a"].tolist() == [[1.0], [1.0]]


def test_an_alternative_that_a_request_lacks_has_no_time() -> None:
    clock = Clock()
    both = {"base": lambda: clock.run("base", 10.0), "new": lambda: clock.run("new", 2.0)}
    requests = [both, both, {"base": lambda: clock.run("base", 1000.0)}]
    seconds = time_interleaved(requests, device=CPU, repetitions=1, warmups=0, clock=clock)
    np.testing.assert_array_equal(seconds["new"], [[2.0], [2.0], [np.nan]])


def test_garbage_collection_is_off_while_timing_and_back_after_an_error() -> None:
    seen = []

    def fail() -> None:
        seen.append(gc.isenabled())
        raise RuntimeError("no list")

    with pytest.raises(RuntimeError, match="no list"):
        time_interleaved([{"a": fail}], device=CPU, repetitions=1, warmups=0)
    assert seen == [False]
    assert gc.isenabled()


def test_latency_in_milliseconds() -> None:
    figures = latency(np.array([[0.010], [0.020], [0.030], [np.nan]]))
    assert figures["latency_ms_p50"] == pytest.approx(20)
    assert figures["latency_ms_p95"] == pytest.approx(29)


def test_rotation_keeps_every_name() -> None:
    assert rotated(["a", "b", "c"], 4) == ["b", "c", "a"]
