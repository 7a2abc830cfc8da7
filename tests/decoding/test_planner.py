"""Choices by cost: known costs and errors, and the choice that a person would make."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from atspeed_core.decoding.beam_rules import BestScore
from atspeed_core.decoding.plan import Choice, Plan, Planned
from atspeed_core.decoding.planner import (
    CallCosts,
    DraftErrors,
    Forecast,
    beams_missing,
    fewest_calls,
    forecast,
    measure_errors,
    ranked_nodes,
    shortlist,
    tightened,
)
from atspeed_core.decoding.proposals import Level
from atspeed_core.errors import UserError
from atspeed_core.planning import draft_errors
from tests.tiny_models import make_catalog, make_recommender

GRID = np.array([0.0, 100.0, 400.0])
SUBTREE = np.array([4.0, 1.0, 0.0])


def costs(node: float, call: float, *, draft: float = 1.0, batch: int = 1) -> CallCosts:
    later = call + node * GRID
    return CallCosts(GRID, 20.0 + later, later, later, np.zeros(1), np.array([draft]), batch)


def errors(users: int = 200) -> DraftErrors:
    """A draft whose gaps grow from user to user; a node stands every 0.1 below the K-th best, and so do its parents."""
    gaps = np.linspace(0.0, 4.0, users)[:, None] * np.array([0.2, 1.0, 1.0])
    beams = np.where(np.tri(3, dtype=bool), gaps[:, None, :], -np.inf)  # [users, levels, levels of the path]
    ranked = np.tile(np.arange(-5, 195) * 0.1, (1, users, 1))
    levels = [np.concatenate([np.full((depth, *ranked.shape[1:]), -np.inf), ranked]) for depth in range(3)]
    return DraftErrors(np.repeat(beams.transpose(2, 0, 1)[..., None], 5, axis=3), levels, SUBTREE)


def choose(node: float, call: float, draft: DraftErrors | None, **options: float) -> tuple[Choice, Forecast]:
    batch, most = int(options.pop("batch", 1)), (400, 400, 400)
    given = costs(node, call, batch=batch)
    found = shortlist(draft, given, k=5, levels=4, codes=90, subtree=SUBTREE, most=most)
    assert [choice.speculation for _, choice in found[:2]] == ["none", "trie"]
    made, choice = min(found, key=lambda option: option[0].milliseconds)
    return choice, made


def test_where_nodes_are_free_all_are_drafted_and_where_they_are_dear_none() -> None:
    free, predicted = choose(0.0, 10.0, errors())
    assert free.speculation == "draft"
    assert max(limit or 0.0 for limit in free.within) == pytest.approx(4.0, abs=0.1)
    assert predicted.calls == pytest.approx(1.0, abs=0.03)
    assert choose(5.0, 1.0, errors())[0].speculation == "none"


def test_without_a_draft_the_trie_is_used_where_it_pays() -> None:
    assert choose(0.01, 10.0, None)[0].speculation == "trie"
    assert choose(1.0, 10.0, None)[0].speculation == "none"


def test_dearer_nodes_give_narrower_drafts() -> None:
    narrow, wide = (choose(node, 10.0, errors())[0] for node in (0.1, 0.01))
    assert narrow.speculation == wide.speculation == "draft"
    assert sum(limit or 0.0 for limit in narrow.within) < sum(limit or 0.0 for limit in wide.within)


def test_a_forecast_counts_calls_and_nodes() -> None:
    made = forecast((1.0, 1.0, 1.0), errors(), costs(0.0, 10.0), repair_subtree=0)
    assert made.calls == pytest.approx(2.5, abs=0.01)  # a quarter of the users lies within 1.0; no subtree is taken
    assert made.milliseconds == pytest.approx(1.0 + 30.0 + 1.5 * 10.0, abs=0.1)
    whole = forecast((1.0, 1.0, 1.0), errors(), costs(0.0, 10.0), repair_subtree=9)
    assert whole.calls == pytest.approx(1.75, abs=0.01)
    assert whole.nodes > made.nodes
    drafted = 3 * 16
    assert made.nodes == pytest.approx(drafted + 0.75 * 10 + 0.0, abs=0.2)  # five beams missing at two levels


def test_a_batch_waits_for_its_widest_request() -> None:
    single = forecast((1.0, 1.0, 1.0), errors(), costs(0.1, 10.0), repair_subtree=0)
    together = forecast((1.0, 1.0, 1.0), errors(), costs(0.1, 10.0, batch=16), repair_subtree=0)
    assert together.milliseconds > single.milliseconds
    assert together.calls == single.calls


def test_a_beam_is_as_far_off_as_the_farthest_node_of_its_path() -> None:
    first = Level(torch.tensor([[3, 1], [1, 2]]), torch.tensor([[-1.0, 2.0], [0.0, 0.5]]), torch.zeros(2, 2).long())
    nodes = torch.tensor([[9, 7, 8], [6, 7, -1]])
    below = torch.tensor([[0.0, 0.1, 3.0], [-2.0, 0.0, torch.inf]])
    second = Level(nodes, below, torch.tensor([[0, 1, 0], [1, 0, 0]]))
    beams = torch.tensor([[[3, 2], [7, 9]], [[1, 2], [6, -1]]])
    found = measure_errors(beams, (beams >= 0) & (beams != 2), [first, second], np.zeros(2))
    inf = np.inf
    assert found.beams[0].round(3).tolist() == [[[-1, -inf], [2, -1]], [[0, -inf], [0.5, -inf]]]
    assert found.beams[1].round(3).tolist() == [[[-inf, -inf], [0.1, 0]], [[-inf, -inf], [-2, -inf]]]
    assert found.levels[1].round(3).tolist() == [[[-1, 2, -1], [0.5, 0, 0]], [[0, 0.1, 3], [-2, 0, inf]]]
    missing = beams_missing((1.0, 0.5), found, None)
    assert missing.tolist() == [[[False, False], [True, False]], [[False, False], [False, False]]]


def test_limits_are_tightened_until_no_request_drafts_more_than_the_total() -> None:
    made = errors()
    wide = (4.0, 4.0, 4.0)
    assert tightened(wide, made, None).tolist() == tightened(wide, made, 1000).tolist() == [0.0] * 200
    for user, less in enumerate(tightened(wide, made, 90)):
        limits = tuple(limit + less + 1e-9 for limit in wide)
        assert 88 <= ranked_nodes(limits, made)[user] <= 92  # ties stand between
    capped = forecast(wide, made, costs(0.1, 10.0), repair_subtree=0, total=90)
    assert capped.calls > forecast(wide, made, costs(0.1, 10.0), repair_subtree=0).calls


def test_what_is_counted_as_missing_is_what_a_drafter_leaves_out(tmp_path: Path) -> None:
    """The forecast of every request against the proposal that the drafter makes for it."""
    codes = [(a, b, c, 0) for a in range(6) for b in range(5) for c in range(a % 3 + 1)]
    recommender = make_recommender(make_catalog(codes), tmp_path)
    histories = [[str(i % 60), str((7 * i) % 60)] for i in range(24)]
    made = draft_errors(recommender, histories, 4, np.zeros(3))
    assert made is not None
    for limits, total in product([(0.5, 0.3, 0.2), (1000.0, 999.0, 1000.5), (2.0, 2.0, -1000.0)], [None, 6, 15]):
        choice = Choice(speculation="draft", most=[99] * 3, within=list(limits), ranked_levels=3, total=total)
        left_out = []
        for history in histories:
            proposal = recommender.proposal(recommender.prepare([history], 4), BestScore(), choice)
            beams = recommender.true_beams([history], 4).view(3, 4, 1)
            left_out.append(~(beams == proposal[0]).any(-1).numpy())
        found = np.stack(left_out) & (made.beams > -np.inf).any(0)
        missing = beams_missing(limits, made, total)
        assert not (missing & ~found).any()
        # A child may stand exactly at its parent's limit: where the total falls between the two, one is left out.
        assert (found & ~missing).sum() <= (0.02 * found.sum() if total else 0)


def test_nodes_go_to_the_level_that_needs_them() -> None:
    """The draft is right at level 1 and 3 within 0.8 and off by up to 4.0 at level 2."""
    few, calls = fewest_calls(errors(), 90, most=(400, 400, 400))
    assert few.total == 90
    assert few.within[1] is not None
    assert few.within[0] is not None
    assert few.within[1] > few.within[0]
    _, more = fewest_calls(errors(), 120, most=(400, 400, 400))
    assert 1 <= more < calls


def test_a_plan_is_read_as_it_was_written_and_the_nearest_kind_is_taken(tmp_path: Path) -> None:
    draft = Choice(speculation="draft", most=[8, 8], within=[1.5, None], ranked_levels=2, repair_subtree=9)
    kinds = [(40, 5, 1, draft), (80, 5, 1, Choice(speculation="none")), (40, 10, 32, Choice(speculation="trie"))]
    plan = Plan([Planned(prompt_tokens=p, k=k, batch=b, choice=c) for p, k, b, c in kinds], {"device": "here"})
    plan.save(tmp_path / "plan.json")
    read = Plan.load(tmp_path / "plan.json")
    assert read == plan
    assert read.choice(prompt_tokens=33, k=5, batch=2, levels=3, has_draft=True) == draft
    assert read.choice(prompt_tokens=50, k=5, batch=1, levels=3, has_draft=True).speculation == "none"
    assert read.choice(prompt_tokens=40, k=12, batch=32, levels=3, has_draft=True).speculation == "trie"
    assert read.choice(prompt_tokens=40, k=5, batch=1, levels=3, has_draft=False).speculation == "trie"


@pytest.mark.parametrize("content", ["", "[]", '{"planned": [{"k": 1}], "facts": {}}'])
def test_what_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(UserError, match="no usable plan"):
        Plan.load(tmp_path / "plan.json")
