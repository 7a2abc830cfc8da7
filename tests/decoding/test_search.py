"""Strict lists equal transformers' generate, whatever is drafted; the counts add up."""

import random
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atspeed_core.decoding.beams import Beams
from atspeed_core.decoding.drafters import NoDrafter
from atspeed_core.decoding.search import search
from atspeed_core.decoding.verification import Strict
from tests.tiny_models import make_catalog, make_recommender, make_tree


@dataclass(frozen=True)
class Case:
    codes: list[tuple[int, ...]]
    histories: list[list[str]]
    k: int
    beams: int
    steps: int
    draft_seed: int
    exclude_history: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    levels = draw(st.integers(1, 5))
    widths = [draw(st.sampled_from([1, 2, 3, 12])) for _ in range(levels)]
    rng = random.Random(draw(st.integers(0, 10**6)))
    count = draw(st.sampled_from([1, 2, 7, 40]))
    codes = list({tuple(rng.randrange(w) for w in widths) for _ in range(count)})
    histories = [[str(rng.randrange(len(codes))) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(1, 4))]
    exclude_history = draw(st.booleans()) and len(codes) > 6
    k = draw(st.integers(1, min(len(codes) - 6 * exclude_history, 12)))
    options = (draw(st.integers(k, 16)), draw(st.integers(1, 5)), draw(st.integers(1, 3)))
    return Case(codes, histories, k, *options, exclude_history)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_strict_equals_generate_on_random_tries(case):
    with TemporaryDirectory() as folder:
        options = {"draft_beams": case.beams, "draft_steps": case.steps, "exclude_history": case.exclude_history}
        recommender = make_recommender(make_catalog(case.codes), Path(folder), draft_seed=case.draft_seed, **options)
    levels = recommender.catalog.num_levels
    expected = recommender.generate(case.histories, case.k)
    plain = recommender.recommend(case.histories, case.k, "none")
    strict = recommender.recommend(case.histories, case.k, "strict")
    oracle = recommender.prepare_oracle(case.histories, case.k)()
    alone = [recommender.recommend([history], case.k, "strict").items[0] for history in case.histories]
    assert plain.items == strict.items == oracle.items == alone == expected.items
    if case.exclude_history:
        assert not any(set(items) & set(history) for items, history in zip(strict.items, case.histories, strict=True))
    for ours, theirs in zip(strict.scores, expected.scores, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert set(plain.target_calls) == {levels}
    assert set(oracle.target_calls) == {1}
    if case.steps >= levels - 1:
        # A decision closer than float32 can tell is settled by a search of `levels` more calls.
        sums = [s + c for s, c in zip(strict.accepted_steps, strict.target_calls, strict=True)]
        assert set(sums) <= {levels, 2 * levels}
    if case.steps >= levels - 1 and case.draft_seed == 1 and case.beams == case.k:  # the draft does the same search
        assert strict.accepted_steps == [levels - 1] * len(case.histories)


class WrongDrafter(NoDrafter):
    """Drafts only nodes that are not in the beams of any depth."""

    def __init__(self, wrong: torch.Tensor) -> None:
        self.wrong = wrong

    def propose(self, beams: Beams) -> torch.Tensor:
        return self.wrong

    def select(self, rows: torch.Tensor) -> None:
        self.wrong = self.wrong[rows]


@pytest.fixture
def codes() -> list[tuple[int, ...]]:
    return [(a, b, c) for a in range(4) for b in range(3) for c in range(2)]


def test_a_drafter_that_is_always_wrong_changes_no_list_and_accepts_no_step(codes):
    catalog = make_catalog(codes)
    histories = [["1", "2"], ["9", "3", "4"]]
    plain = search(make_tree(catalog, histories), NoDrafter(), Strict(), 2)
    inner = set(range(1, catalog.trie.first_leaf))
    wrong = [sorted(inner - set(row.flatten().tolist()))[:6] for row in plain.beams]
    found = search(make_tree(catalog, histories), WrongDrafter(torch.tensor(wrong)), Strict(), 2)
    assert found.leaves.tolist() == plain.leaves.tolist()
    assert found.accepted_steps.tolist() == [0, 0]
    assert found.target_calls.tolist() == [3, 3]


def test_requests_of_a_batch_finish_at_their_own_pace(codes):
    catalog = make_catalog(codes)
    histories = [["1", "2"], ["9", "3", "4"], ["5"]]
    truth = search(make_tree(catalog, histories), NoDrafter(), Strict(), 3).beams
    proposals = truth.flatten(1).clone()
    proposals[1, 3:] = -1  # right at depth 1, nothing at depth 2
    proposals[2] = -1
    found = search(make_tree(catalog, histories), WrongDrafter(proposals), Strict(), 3)
    assert found.accepted_steps.tolist() == [2, 1, 0]
    assert found.target_calls.tolist() == [1, 2, 3]
