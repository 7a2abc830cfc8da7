"""Interleaved timing of alternatives that answer the same requests in the same process."""

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Alternatives = Mapping[str, Callable[[], object]]


def time_interleaved(
    requests: Iterable[Alternatives],
    *,
    device: torch.device,
    repetitions: int,
    warmups: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, FloatArray]:
    """Time every alternative on every request, one after the other, in an order that rotates.

    A slow moment of the machine then falls on all alternatives alike. The first request is first run `warmups`
    times untimed; the garbage collector is off while a request is timed.

    Args:
        requests: for each request, the alternatives by name, ready to be called. What a request prepares when it
            is taken from the iterable is not timed. A request may lack an alternative.
        device: synchronised before and after every reading of the clock.
        repetitions: timed runs of each alternative on each request.
        warmups: untimed runs of each alternative on the first request.
        clock: seconds.

    Returns:
        Name -> seconds, [requests, repetitions] float64; nan where a request lacks the alternative.
    """
    rows: list[dict[str, list[float]]] = []
    for number, alternatives in enumerate(requests):
        for run in list(alternatives.values()) * (warmups if number == 0 else 0):
            run()
        rows.append({name: [] for name in alternatives})
        with _without_garbage_collection():
            for repetition in range(repetitions):
                for name in rotated(list(alternatives), number + repetition):
                    rows[-1][name].append(_seconds(alternatives[name], device, clock))
    names = dict.fromkeys(name for row in rows for name in row)
    absent = [float("nan")] * repetitions
    return {name: np.array([row.get(name, absent) for row in rows]) for name in names}


def rotated(names: list[str], turn: int) -> list[str]:
    """`names`, begun `turn` places later."""
    start = turn % len(names)
    return names[start:] + names[:start]


def latency(seconds: FloatArray) -> dict[str, float]:
    """Median and 95th percentile in milliseconds of `seconds` [requests, repetitions], nan left out."""
    return {f"latency_ms_p{p}": float(np.nanpercentile(seconds, p) * 1000) for p in (50, 95)}


def load_average() -> float | None:
    """Processes that ran or waited for a core over the last minute, ours among them; None where no system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def synchronize(device: torch.device) -> None:
    """Wait for the work queued on `device`; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(run: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    synchronize(device)
    start = clock()
    run()
    synchronize(device)
    return clock() - start


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
