"""The first part of a search can be captured: replayed on other requests it gives their lists; the host never looks.

No GPU is needed. A record of tensor operations stands in for a CUDA graph: like one it repeats the operations it has
seen in the memory they used, whatever Python would have decided for other values. And tensors without values refuse
to be read.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atspeed_core import Recommender
from atspeed_core.decoding.beam_rules import BestScore
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.graphs import Captured, Graphs, Program
from atspeed_core.decoding.llama import Cache, DecoderSession, LlamaDecoder
from atspeed_core.decoding.plan import Choice
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.models.one_shot_draft import OneShotDraft
from tests.complete_params import OneShot
from tests.tiny_models import build_recommender, make_catalog

CODES = [(a, b, c, d) for a in range(5) for b in range(4) for c in range(1 + a % 2) for d in range(1 + b % 2)]
BATCHES = [
    [["0", "3"], ["11"]],
    [["7", "1", "9", "4"], ["2", "2", "30"]],
    [["5"], ["8", "30", "14", "3", "21", "6", "1"]],
]
CHOICES = {
    "no speculation": Choice(speculation="none"),
    "trie": Choice(speculation="trie", most=[512], repair_subtree=512),
    "few nodes": Choice(speculation="draft", most=[3, 4, 4], ranked_levels=3, repair_subtree=8),
    "limits, a total and subtrees": Choice(
        speculation="draft", most=[6, 12, 9], within=[3.0, 4.0, None], ranked_levels=2, total=13, repair_subtree=8
    ),
}
K = 4


def make(one_shot: bool = False) -> Recommender:
    options = {"draft_beams": 6, "exclude_history": True}
    recommender = build_recommender(make_catalog(CODES), draft_seed=3, **options)
    if not one_shot:
        return recommender
    shape = OneShot(hidden_size=8, num_layers=2, num_heads=2)
    return replace(recommender, draft=OneShotDraft(shape, recommender.catalog, max_history=20, seed=0))


class Recording(TorchDispatchMode):
    """Keeps every operation with the tensors that it read and wrote; an operation that tells the host a value fails."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        assert not tells_the_host(func, args), f"{func} tells the host a value"
        output = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, written_by(output, args)))
        return output

    @torch.inference_mode()
    def replay(self) -> None:
        """Repeat all operations; each writes where it wrote when it was recorded."""
        for func, args, kwargs, written in self.operations:
            output = func(*args, **kwargs)
            for ours, new in zip(written, written_by(output, args), strict=True):
                ours.copy_(new)


def tells_the_host(func: Any, args: tuple[Any, ...]) -> bool:
    by_mask = func.overloadpacket is torch.ops.aten.index and any(
        index is not None and index.dtype == torch.bool for index in args[1]
    )
    shapes = (torch.ops.aten.nonzero, torch.ops.aten.masked_select)
    return torch.Tag.data_dependent_output in func.tags or func.overloadpacket in shapes or by_mask


def written_by(output: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors of an operation's output with memory of their own; views and what is written in place have none."""
    inputs = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves(args) if isinstance(tensor, Tensor)}
    outputs = [tensor for tensor in tree_leaves(output) if isinstance(tensor, Tensor)]
    return [tensor for tensor in outputs if tensor.untyped_storage().data_ptr() not in inputs]


def record(program: Program[Any], inputs: list[Tensor]) -> Captured[Any]:
    """As `CudaCapture`: the operations on tensors are kept, and what Python decided on the way stays decided."""
    with Recording() as recording:
        output = program(inputs)
    return Captured(inputs, output, recording.replay)


def tensors_of(part: Any) -> Iterator[Tensor]:
    """All tensors of a search that has begun, but for the models' weights and the trie's arrays."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, list):
        for each in part:
            yield from tensors_of(each)
    elif isinstance(part, ScoredTree | DecoderSession):
        for name, each in vars(part).items():
            if name not in ("model", "trie", "_decoder"):
                yield from tensors_of(each)
    elif is_dataclass(part):
        for field in fields(part):
            yield from tensors_of(getattr(part, field.name))


@pytest.mark.parametrize("one_shot", [False, True], ids=["language model", "one-shot"])
@pytest.mark.parametrize("name", CHOICES)
def test_a_replay_on_other_requests_gives_their_lists(
    name: str, one_shot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The columns that a CPU would cut off stay, as on a GPU: their number depends on values.
    monkeypatch.setattr("atspeed_core.decoding.proposals.narrowed", lambda nodes: nodes)
    recommender = make(one_shot)
    captures = 0

    def capture(program: Program[Any], inputs: list[Tensor]) -> Captured[Any]:
        nonlocal captures
        captured = record(program, inputs)
        captures += 1
        return captured

    graphed = replace(recommender, graphs=Graphs(capture))
    for histories in [*BATCHES, *BATCHES]:
        asked = [(r, r.prepare(histories, K)) for r in (recommender, graphed)]
        plain, found = (r.speculate(request, BestScore(), CHOICES[name]) for r, request in asked)
        assert found.leaves.tolist() == plain.leaves.tolist()
        assert found.target_calls.tolist() == plain.target_calls.tolist()
        assert found.beams.tolist() == plain.beams.tolist()
        torch.testing.assert_close(found.scores, plain.scores, atol=1e-4, rtol=1e-4)
    assert captures == 2  # prompts of 16 and of 32 tokens


def test_the_oracle_and_a_subset_of_the_catalogue_are_replayed_too() -> None:
    recommender = make()
    graphed = replace(recommender, graphs=Graphs(record))
    for histories in BATCHES[:2]:
        allowed = [str(item) for item in range(0, len(CODES), 3)]
        plain = recommender.recommend(histories, K, "none", allowed_items=allowed)
        assert graphed.recommend(histories, K, "none", allowed_items=allowed).items == plain.items
        known = graphed.prepare_oracle(histories, K)()
        assert known.items == recommender.recommend(histories, K, "none").items
        assert set(known.target_calls) == {1}


def test_a_function_that_cannot_be_captured_runs_without_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    def capture(program: Program[Any], inputs: list[Tensor]) -> Captured[Any]:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    graphs = Graphs(capture)
    assert [float(graphs.run("twice", lambda given: 2 * given[0], [torch.tensor(x)])) for x in (1.0, 2.0)] == [2, 4]
    assert caplog.text.count("it runs without: operation not permitted when stream is capturing") == 1


def test_the_graph_that_was_longest_out_of_use_goes_first() -> None:
    captured: list[str] = []

    def capture(program: Program[Any], inputs: list[Tensor]) -> Captured[Any]:
        captured.append(program([]))
        return Captured([], program([]), lambda: None)

    graphs = Graphs(capture, most=2)
    for name in "abacab":
        assert graphs.run(name, lambda _, name=name: name, []) == name
    assert captured == ["a", "b", "c", "b"]


def without_values(recommender: Recommender) -> Recommender:
    """The same on torch's device "meta": shapes and dtypes, no values, and no mixing with tensors of the CPU."""

    def moved(model: Any) -> Any:
        if not isinstance(model, CodeModel):
            return model.to("meta")
        assert model.decoder is not None
        prefix, module = model.decoder._prefix, model.model.to("meta")
        decoder = LlamaDecoder(module)
        decoder._prefix = prefix and Cache([layer.to("meta") for layer in prefix.layers], prefix.length)
        return CodeModel(module, model.code_ids.to("meta"), decoder)

    trie = DeviceTrie.build(recommender.catalog.trie, "meta")
    return replace(recommender, trie=trie, target=moved(recommender.target), draft=moved(recommender.draft))


@pytest.mark.parametrize("one_shot", [False, True], ids=["language model", "one-shot"])
@pytest.mark.parametrize("name", CHOICES)
def test_no_value_is_read_back_before_the_first_call_is_decided(name: str, one_shot: bool) -> None:
    recommender = make(one_shot)
    request = recommender.prepare(BATCHES[0], K)
    shapes = without_values(recommender)
    tensors = {part: tensor.to("meta") for part, tensor in request.tensors().items()}
    moved = replace(request, trie=shapes.trie).holding(tensors)
    with torch.inference_mode():
        begun = shapes.begin(moved, BestScore(), CHOICES[name])
    assert {part.device.type for part in tensors_of(begun)} == {"meta"}
    assert begun.path[-1].nodes.shape == (2, K)
    with pytest.raises(RuntimeError, match="meta"):  # such tensors do tell when the host looks
        shapes.speculate(moved, BestScore(), CHOICES[name])
