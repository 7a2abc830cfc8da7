"""The ways of decoding that are compared, each prepared for a batch of requests."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from atspeed_core.benchmark.profiling import ClockedModel, ClockedScorer, Stopwatch, clocked_forward
from atspeed_core.benchmark.replay import Tape
from atspeed_core.benchmark.targets import Target
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.plan import Plan
from atspeed_core.drafters.one_shot import PrefixScorer
from atspeed_core.recommender import Constraint, Draft, Recommendation, Recommender

GENERATE, GENERATE_TENSOR, BASELINE = "generate_callback", "generate_tensor", "none"
PUBLISHED, TRIE, OURS, ORACLE = "published", "trie", "ours", "oracle"
PEERS = {
    GENERATE: "transformers generate, trie by a Python callback",
    GENERATE_TENSOR: "transformers generate, trie by a tensor logits processor",
    BASELINE: "our engine without speculation",
    PUBLISHED: "the paper's scheme in our engine: N draft beams per level, drafted in rounds",
    TRIE: "our engine, speculation by the item trie alone",
    OURS: "our engine, following the plan",
    ORACLE: "our engine, a draft that knows the answer and costs nothing",
}
GENERATES: dict[str, Constraint] = {GENERATE: "callback", GENERATE_TENSOR: "tensor"}

Histories = Sequence[Sequence[str]]
Run = Callable[[], Recommendation]
Search = Callable[[Recommender], Recommendation]


@dataclass(frozen=True)
class Stopwatches:
    """Time spent in the models: forward passes and heads."""

    target: Stopwatch
    draft: Stopwatch


def obstacle(name: str, target: Target, k: int) -> str | None:
    """The reason why a peer cannot answer at this K; None if it can."""
    recommender = target.trained
    if k > recommender.trie.depth_start[-1] - recommender.trie.first_leaf:
        return "K is larger than the catalog"
    if name == PUBLISHED and not recommender.drafts_in_rounds:
        return "the draft is not a language model"
    if name == PUBLISHED and k > recommender.decoding.draft_beams:
        return f"the published scheme drafts N = {recommender.decoding.draft_beams} beams per level, fewer than K"
    return None


def prepare(name: str, target: Target, histories: Histories, k: int, clocks: Stopwatches | None = None) -> Run:
    """A run of the peer `name` that answers `histories` in one batch, from item ids to item ids.

    For a stand-in the search first runs on the trained target and is recorded; the returned run replays it. With
    `clocks` the models' time is counted.
    """
    if name in GENERATES:
        return _generate(name, target, histories, k, clocks)
    beams = target.trained.true_beams(histories, k) if name == ORACLE else None
    run = partial(search, name=name, histories=histories, k=k, beams=beams)
    if target.stand_in is None:
        return partial(run, _clocked(target.trained, clocks))
    tape = Tape()
    run(target.recorder(tape))
    replayer = _clocked(target.replayer(tape), clocks)

    def replay() -> Recommendation:
        tape.rewind()
        answer = run(replayer)
        tape.finish()
        return answer

    return replay


def search(
    recommender: Recommender, *, name: str, histories: Histories, k: int, beams: Tensor | None
) -> Recommendation:
    """One search in our engine; `beams` are those of the oracle."""
    if name == BASELINE:
        return recommender.recommend(histories, k, "none")
    if name == PUBLISHED:
        return recommender.search_as_published(histories, k)
    if name == TRIE:
        return replace(recommender, draft=None, plan=Plan([], {})).recommend(histories, k)
    if name == OURS:
        return recommender.recommend(histories, k)
    assert beams is not None
    return recommender.search_knowing(beams, histories, k)


def _generate(name: str, target: Target, histories: Histories, k: int, clocks: Stopwatches | None) -> Run:
    def run() -> Recommendation:
        with ExitStack() as stack:
            if clocks is not None:
                stack.enter_context(clocked_forward(target.plain.target.model, clocks.target))
            return target.plain.generate(histories, k, GENERATES[name])

    return run


def _clocked(recommender: Recommender, clocks: Stopwatches | None) -> Recommender:
    if clocks is None:
        return recommender
    draft: Draft | None = recommender.draft
    if isinstance(draft, CodeModel):
        draft = ClockedModel.of(draft, clocks.draft)
    elif isinstance(draft, PrefixScorer):  # drafting of any other kind is no model's work
        draft = ClockedScorer(draft, clocks.draft)
    return replace(recommender, target=ClockedModel.of(recommender.target, clocks.target), draft=draft)
