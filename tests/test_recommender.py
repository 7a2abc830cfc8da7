from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from atspeed_core import Recommender
from atspeed_core.decoding.beam_rules import BestScore
from atspeed_core.decoding.plan import Choice, Plan, Planned
from atspeed_core.errors import UserError
from atspeed_core.models.building import save_model
from atspeed_core.models.one_shot_draft import OneShotDraft, load_one_shot, save_one_shot
from atspeed_core.models.retrieval_draft import RetrievalDraft, save_retrieval
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.settings import DecodingConfig
from tests.complete_params import OneShot
from tests.tiny_models import make_catalog, make_recommender

CODES = [(a, b, c) for a in range(4) for b in range(3) for c in range(2)]
HISTORIES = [["1", "2", "3"], ["9"], ["20", "4", "7", "11"]]


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    return make_recommender(make_catalog(CODES), tmp_path_factory.mktemp("models"), draft_beams=8)


def test_lists_are_sorted_and_without_duplicates(recommender):
    out = recommender.recommend(HISTORIES, k=8)
    for items, scores in zip(out.items, out.scores, strict=True):
        assert len(items) == len(set(items)) == 8
        assert scores == sorted(scores, reverse=True)


def test_prompts_are_left_padded(recommender):
    ids, mask = recommender.encode(HISTORIES)
    assert mask.tolist() == [[0] * 3 + [1] * 10, [0] * 9 + [1] * 4, [1] * 13]
    assert (ids[mask == 0] == recommender.encoder.pad_id).all()
    alone, _ = recommender.encode([["9"]])
    assert ids[1, -4:].tolist() == alone[0].tolist()


def test_only_the_most_recent_items_are_used(recommender):
    ids, _ = recommender.encode([["5"] * 30 + ["1"] * 20])
    assert torch.equal(ids, recommender.encode([["1"] * 20])[0])


def test_unknown_items_are_skipped_and_counted(recommender):
    out = recommender.recommend([["nobody", "1", "2", "3"], ["9"]], k=3)
    assert out.unknown_items == [1, 0]
    assert out.items == recommender.recommend([["1", "2", "3"], ["9"]], k=3).items


@pytest.mark.parametrize("verification", ["none", "strict", "relaxed", "exact_sampling"])
def test_allowed_items_narrow_the_lists_without_reordering_them(recommender, verification):
    allowed = ["3", "4", "17", "23", "unknown"]
    out = recommender.recommend(HISTORIES, k=4, verification=verification, allowed_items=allowed)
    whole = recommender.recommend(HISTORIES, k=8, verification="none", allowed_items=None)
    assert all(set(items) == set(allowed[:4]) for items in out.items)
    if verification == "exact_sampling":  # scores are log-probabilities within the allowed items, the order is sampled
        return
    for items, scores, all_items, all_scores in zip(out.items, out.scores, whole.items, whole.scores, strict=True):
        score_of = dict(zip(items, scores, strict=True))
        assert all(
            score_of[i] == pytest.approx(s, abs=1e-3)
            for i, s in zip(all_items, all_scores, strict=True)
            if i in score_of
        )


def test_fewer_allowed_items_than_k_give_shorter_lists(recommender):
    out = recommender.recommend(HISTORIES[:1], k=5, allowed_items=["3", "8"])
    assert sorted(out.items[0]) == ["3", "8"]


@pytest.mark.parametrize("verification", ["relaxed", "exact_sampling"])
def test_a_draw_depends_on_the_seed_alone(recommender, verification):
    first = recommender.recommend(HISTORIES, k=5, verification=verification, seed=3)
    assert recommender.recommend(HISTORIES, k=5, verification=verification, seed=3) == first
    others = [recommender.recommend(HISTORIES, k=5, verification=verification, seed=s).items for s in range(4, 10)]
    assert any(items != first.items for items in others)
    assert all(len(set(row)) == 5 for items in others for row in items)


def test_near_ties_are_settled_by_the_step_by_step_search(recommender, monkeypatch):
    strict = recommender.recommend(HISTORIES, k=5)
    assert [s + c for s, c in zip(strict.accepted_steps, strict.target_calls, strict=True)] == [3, 3, 3]
    monkeypatch.setattr("atspeed_core.recommender.NEAR_TIE", torch.inf)
    settled = recommender.recommend(HISTORIES, k=5)
    plain = recommender.recommend(HISTORIES, k=5, verification="none")
    assert (settled.items, settled.scores) == (plain.items, plain.scores)
    assert settled.target_calls == [calls + 3 for calls in strict.target_calls]


def test_a_shorter_sample_is_the_start_of_a_longer_one(recommender: Recommender) -> None:
    """The noise of an item depends on the seed alone; the evaluation samples the longest lists only."""
    longest = recommender.recommend(HISTORIES, 6, verification="exact_sampling", seed=3).items
    for k in range(1, 6):
        items = recommender.recommend(HISTORIES, k, verification="exact_sampling", seed=3).items
        assert items == [row[:k] for row in longest]


@pytest.mark.parametrize("verification", ["strict", "exact_sampling"])
def test_no_plan_changes_a_list(recommender, verification):
    plain = recommender.recommend(HISTORIES, 6, "none")
    seen = set()
    choices = [
        Choice(speculation="none"),
        Choice(speculation="trie", most=[4], repair_subtree=5),
        Choice(speculation="trie", most=[3]),  # more codes than that: nothing is proposed
        Choice(speculation="draft", most=[2, 3], ranked_levels=2),
        Choice(speculation="draft", most=[4, 9], within=[0.0, None], ranked_levels=2, repair_subtree=2),
        Choice(speculation="draft", most=[4, 9], ranked_levels=1, repair_subtree=50),
    ]
    for choice in choices:
        planned = replace(recommender, plan=Plan([Planned(prompt_tokens=9, k=6, batch=1, choice=choice)], {}))
        out = planned.recommend(HISTORIES, 6, verification, seed=1)
        assert verification != "strict" or out.items == plain.items
        seen.add(str(out.items))
    assert len(seen) == 1


def test_items_that_share_an_identifier_follow_one_another(tmp_path):
    recommender = make_recommender(make_catalog([*CODES, CODES[0], CODES[0]]), tmp_path)
    (items,) = recommender.recommend([["5", "6"]], k=24, verification="none").items
    assert len(items) == 24
    place = items.index("0")
    assert items[place : place + 3] == ["0", "24", "25"][: 24 - place]


def test_of_items_that_share_an_identifier_only_the_seen_ones_are_left_out(tmp_path):
    catalog = make_catalog([*CODES, CODES[0], CODES[1]])  # items 0 and 24 share one identifier, 1 and 25 another
    recommender = make_recommender(catalog, tmp_path, exclude_history=True)
    out = recommender.recommend([["0", "1", "25"]], k=23, verification="none")
    assert set(out.items[0]) == {str(i) for i in range(26)} - {"0", "1", "25"}
    with pytest.raises(UserError, match="leaves fewer items"):
        recommender.generate([["0", "1", "25"]], k=24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"histories": [["1"], []]}, "request 1: the history is empty"),
        ({"histories": [["nobody"]]}, "request 0: the history holds no known item .*nobody"),
        ({"k": 0}, "between 1 and the catalog's 24"),
        ({"k": 25, "verification": "none"}, "between 1 and the catalog's 24"),
        ({"k": 9, "verification": "relaxed"}, "raise draft_beams"),
        ({"verification": "fast"}, "known: exact_sampling, none, relaxed, strict"),
        ({"allowed_items": ["nobody"]}, "none of them is in the catalog"),
    ],
)
def test_mistakes_are_named(recommender, arguments, message):
    with pytest.raises(UserError, match=message):
        recommender.recommend(**({"histories": HISTORIES, "k": 5} | arguments))


def test_relaxed_needs_a_draft_and_strict_makes_do_with_the_trie(recommender):
    without = type(recommender)(**{**{f: getattr(recommender, f) for f in recommender.__annotations__}, "draft": None})
    with pytest.raises(UserError, match="needs a draft"):
        without.recommend(HISTORIES, verification="relaxed")
    assert without.recommend(HISTORIES, 5, "strict").items == recommender.recommend(HISTORIES, 5, "none").items
    assert without.recommend(HISTORIES, 5, "none").items == recommender.recommend(HISTORIES, 5, "strict").items


def test_missing_folders_are_named(tmp_path, recommender):
    recommender.catalog.save(tmp_path / "identifiers.json")
    with pytest.raises(UserError, match="nowhere"):
        type(recommender).load(tmp_path / "nowhere", None, tmp_path / "identifiers.json")


@pytest.fixture(scope="module")
def one_shot(recommender, tmp_path_factory):
    """The recommender with an untrained one-shot draft."""
    folder = tmp_path_factory.mktemp("one_shot")
    draft = OneShotDraft(OneShot(hidden_size=8), recommender.catalog, max_history=20, seed=0)
    save_one_shot(folder / "draft", draft, recommender.catalog)
    return replace(recommender, draft=load_one_shot(folder / "draft", recommender.catalog))


@pytest.mark.parametrize("k", [1, 4, 24])
def test_a_one_shot_draft_changes_no_list(recommender, one_shot, k):
    plain = recommender.recommend(HISTORIES, k, verification="none")
    strict = one_shot.recommend(HISTORIES, k)
    assert strict.items == plain.items
    assert max(strict.target_calls) <= 3
    sampled = one_shot.recommend(HISTORIES, k, verification="exact_sampling", seed=5)
    assert sampled.items == recommender.recommend(HISTORIES, k, verification="exact_sampling", seed=5).items


def test_a_one_shot_draft_offers_no_published_verification(one_shot):
    assert one_shot.offers("strict")
    assert not one_shot.offers("relaxed")
    with pytest.raises(UserError, match="language_model"):
        one_shot.recommend(HISTORIES, 3, verification="relaxed")


@pytest.fixture(scope="module")
def dare(recommender, tmp_path_factory):
    """The recommender with retrieval drafting, loaded from its folder as any draft."""
    folder = tmp_path_factory.mktemp("dare")
    recommender.catalog.save(folder / "identifiers.json")
    save_model(
        folder / "target", recommender.target.model, build_tokenizer(recommender.catalog.code_tokens), instruction=""
    )
    save_retrieval(folder / "draft", RetrievalDraft(seed=3))
    return Recommender.load(
        folder / "target", folder / "draft", folder / "identifiers.json", decoding=DecodingConfig(draft_beams=8)
    )


@pytest.mark.parametrize("k", [1, 4, 8])
def test_retrieval_drafting_changes_no_list(recommender, dare, k):
    assert dare.draft == RetrievalDraft(seed=3)
    assert dare.draft_parameters == 0
    plain = recommender.recommend(HISTORIES, k, verification="none")
    strict = dare.recommend(HISTORIES, k)
    assert strict.items == dare.search_as_published(HISTORIES, k).items == plain.items
    sampled = dare.recommend(HISTORIES, k, verification="exact_sampling", seed=5)
    assert sampled.items == recommender.recommend(HISTORIES, k, verification="exact_sampling", seed=5).items
    relaxed = dare.recommend(HISTORIES, k, verification="relaxed", seed=2)
    assert all(len(set(items)) == k for items in relaxed.items)


def test_retrieval_drafts_by_seed_and_history_whatever_the_batch(dare):
    choice = Choice(speculation="draft", most=[2, 3], ranked_levels=2)

    def proposed(recommender, histories):
        request = recommender.prepare(histories, 4)
        rows = recommender.proposal(request, BestScore(), choice).tolist()
        return [[node for node in row if node >= 0] for row in rows]

    together = proposed(dare, HISTORIES)
    assert [len(row) for row in together] == [5, 5, 5]
    assert [proposed(dare, [history])[0] for history in HISTORIES] == together
    others = [proposed(replace(dare, draft=RetrievalDraft(seed)), HISTORIES) for seed in range(4)]
    assert len({str(rows) for rows in others}) == 4


def test_retrieval_draws_uniformly(dare):
    """Every code of level 1 is as probable as the others, and so is each child of a sampled one."""
    request = dare.prepare([["1"]], 1)
    choice = Choice(speculation="draft", most=[1, 1], ranked_levels=2)
    rows = []
    for seed in range(1200):
        drafting = replace(dare, draft=RetrievalDraft(seed))
        rows.append(tuple(drafting.proposal(request, BestScore(), choice)[0].tolist()))
    counts = Counter(rows)
    assert len(counts) == 12
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_sampling_as_published_without_speculation(recommender):
    lists = recommender.sample_as_published(HISTORIES, 5, seed=1)
    assert lists == recommender.sample_as_published(HISTORIES, 5, seed=1)
    assert lists.target_calls == [3, 3, 3]
    assert lists.accepted_steps == [0, 0, 0]
    others = [recommender.sample_as_published(HISTORIES, 5, seed=seed).items for seed in range(2, 6)]
    assert any(items != lists.items for items in others)
    cold = replace(recommender, decoding=DecodingConfig(temperature=1e-3))
    assert cold.sample_as_published(HISTORIES, 5).items == recommender.recommend(HISTORIES, 5, "none").items


def test_without_speculation_every_level_is_a_call(recommender):
    plain = recommender.without_speculation().recommend(HISTORIES, 5, "exact_sampling", seed=1)
    assert plain.target_calls == [3, 3, 3]
    assert plain.items == recommender.recommend(HISTORIES, 5, "exact_sampling", seed=1).items
