"""CUDA graphs: a function of tensors whose shapes are fixed, captured once a kind of input and replayed."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

T = TypeVar("T")
Program = Callable[[Sequence[Tensor]], T]

MOST_GRAPHS = 48  # each holds its intermediate tensors; the one that was longest out of use goes first
WARMUPS = 2  # runs before the capture, in which libraries choose their kernels and allocate


@dataclass
class Captured(Generic[T]):
    """One captured run.

    Attributes:
        inputs: where the graph reads.
        output: what the run returned; its tensors hold the last replay's values.
        replay: runs the graph on `inputs`.
    """

    inputs: list[Tensor]
    output: T
    replay: Callable[[], None]


class Capture(Protocol):
    """Runs a program on some inputs in such a way that the run can be repeated on others of the same shapes."""

    def __call__(self, program: Program[T], inputs: list[Tensor]) -> Captured[T]:
        """See the class."""
        ...


class Graphs:
    """Captured programs by kind.

    Attributes:
        lock: to be held from `run` until what it returned is no longer needed: one thread at a time.
    """

    def __init__(self, capture: Capture, most: int = MOST_GRAPHS) -> None:
        """Capture with `capture`, and keep at most so many."""
        self.lock = threading.Lock()
        self._capture, self._most = capture, most
        self._captured: OrderedDict[Hashable, Captured[object] | None] = OrderedDict()

    def run(self, kind: Hashable, program: Program[T], inputs: Sequence[Tensor]) -> T:
        """What `program` gives for `inputs`; its tensors are valid until the next call.

        Args:
            kind: names the program and all that its run depends on besides the values of `inputs`.
            program: reads nothing back from the device; what it keeps in Python is as the captured run left it.
            inputs: tensors on the device, of the same shapes and dtypes for the same kind.
        """
        if kind not in self._captured:
            self._captured[kind] = self._tried(kind, program, inputs)
            while len(self._captured) > self._most:
                self._captured.popitem(last=False)
        self._captured.move_to_end(kind)
        captured = self._captured[kind]
        if captured is None:
            return program(inputs)
        for ours, given in zip(captured.inputs, inputs, strict=True):
            ours.copy_(given)
        captured.replay()
        return captured.output  # type: ignore[return-value]

    def _tried(self, kind: Hashable, program: Program[T], inputs: Sequence[Tensor]) -> Captured[T] | None:
        try:
            return self._capture(program, [given.clone() for given in inputs])
        except RuntimeError as error:
            logger.warning("no graph of a search, it runs without: %s", " ".join(str(error).split()))
            return None


class CudaCapture:
    """Captures with `torch.cuda.graph`; all its graphs share memory, for they run one after the other."""

    def __init__(self) -> None:
        """A memory pool of its own."""
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, program: Program[T], inputs: list[Tensor]) -> Captured[T]:
        """See `Capture`; first some runs alongside the main stream, as torch's documentation asks."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARMUPS):
                program(inputs)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = program(inputs)
        return Captured(inputs, output, graph.replay)
