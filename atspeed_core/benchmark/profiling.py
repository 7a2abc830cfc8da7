"""How a run's time is divided between the models, and how much memory it takes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed_core.decoding.code_model import CodeModel, Session
from atspeed_core.drafters.one_shot import PrefixScorer
from atspeed_core.timing import synchronize

MIB = 1 << 20
SAMPLE_SECONDS = 0.005


@dataclass
class Stopwatch:
    """Adds up the seconds spent under `running`; the device is synchronized before and after."""

    device: torch.device
    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of this block."""
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class ClockedModel(CodeModel):
    """A model whose forward passes and head are timed; see `CodeModel`."""

    inner: CodeModel = field(kw_only=True)
    clock: Stopwatch = field(kw_only=True)

    @classmethod
    def of(cls, inner: CodeModel, clock: Stopwatch) -> "ClockedModel":
        """`inner`, timed."""
        return cls(inner.model, inner.code_ids, inner.decoder, inner=inner, clock=clock)

    def session(self, batch: int, capacity: int) -> Session:
        """See `CodeModel`."""
        with self.clock.running():
            return _ClockedSession(self.inner.session(batch, capacity), self.clock)

    def code_log_probs(self, hidden: Tensor) -> Tensor:
        """See `CodeModel`."""
        with self.clock.running():
            return self.inner.code_log_probs(hidden)


class _ClockedSession:
    def __init__(self, inner: Session, clock: Stopwatch) -> None:
        self._inner, self._clock = inner, clock

    @property
    def prefix_length(self) -> int:
        return self._inner.prefix_length

    def extend(self, tokens: Tensor, positions: Tensor, visible: Tensor, *, keep_from: int) -> Tensor:
        with self._clock.running():
            return self._inner.extend(tokens, positions, visible, keep_from=keep_from)

    def select(self, rows: Tensor) -> None:
        with self._clock.running():
            self._inner.select(rows)


class ClockedScorer:
    """A one-shot draft whose forward pass is timed; see `PrefixScorer`."""

    def __init__(self, inner: PrefixScorer, clock: Stopwatch) -> None:
        """`inner`, timed."""
        self.max_history = inner.max_history
        self._inner, self._clock = inner, clock

    def __call__(self, items: Tensor) -> Any:
        """See `PrefixScorer`."""
        with self._clock.running():
            return self._inner(items)

    def next_log_probs(self, scores: Any, children: Tensor, depth: int) -> Tensor:
        """See `PrefixScorer`; part of the ranking, not timed."""
        return self._inner.next_log_probs(scores, children, depth)


@contextmanager
def clocked_forward(model: PreTrainedModel, clock: Stopwatch) -> Iterator[None]:
    """Count the forward passes of `model` itself, as generate runs them."""
    running: list[Any] = []

    def begin(*_: object) -> None:
        running.append(clock.running())
        running[-1].__enter__()

    def end(*_: object) -> None:
        running.pop().__exit__(None, None, None)

    handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class PeakMemory:
    """The largest memory use inside a `with` block, in MiB.

    On CUDA it is what torch allocated on the device, weights included; on a CPU it is the resident memory of the whole
    process, sampled every few milliseconds.
    """

    def __init__(self, device: torch.device) -> None:
        """Watch `device`."""
        self.mib = 0.0
        self._device, self._done = device, threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        """Begin."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; `mib` is the peak."""
        if self._device.type == "cuda":
            self.mib = torch.cuda.max_memory_allocated(self._device) / MIB
        else:
            self._done.set()
            self._watcher.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.mib = max(self.mib, process.memory_info().rss / MIB)
            if self._done.wait(SAMPLE_SECONDS):
                return
