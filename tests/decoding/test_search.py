"""Strict lists equal transformers' generate, whatever is drafted; the counts add up."""

import os
import random
from collections import Counter
from dataclasses import dataclass, replace
from itertools import permutations

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from atspeed_core.decoding.beam_rules import BestScore, GumbelTopK
from atspeed_core.decoding.plan import Choice, Plan, Planned
from atspeed_core.decoding.proposals import Quotas, propose, propose_level_one
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import beam_search, search
from atspeed_core.drafters.language_model import AutoregressivePrefixes
from atspeed_core.identifiers.catalog import Catalog
from tests.tiny_models import build_recommender, make_catalog, make_tree

EXAMPLES = int(os.environ.get("ATSPEED_EXAMPLES", "60"))  # make test-exactness: thousands


@dataclass(frozen=True)
class Case:
    codes: list[tuple[int, ...]]
    histories: list[list[str]]
    k: int
    beams: int
    steps: int
    draft_seed: int
    exclude_history: bool
    choice: Choice


@st.composite
def cases(draw: st.DrawFn) -> Case:
    levels = draw(st.integers(1, 6))
    widths = [draw(st.sampled_from([1, 2, 3, 12, 150])) for _ in range(levels)]  # chains, and nodes of many children
    rng = random.Random(draw(st.integers(0, 10**6)))
    count = draw(st.sampled_from([1, 2, 7, 40, 160]))
    codes = list({tuple(rng.randrange(w) for w in widths) for _ in range(count)})
    histories = [[str(rng.randrange(len(codes))) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(1, 4))]
    exclude_history = draw(st.booleans()) and len(codes) > 6
    k = draw(st.integers(1, min(len(codes) - 6 * exclude_history, 12)))
    options = (draw(st.integers(k, 16)), draw(st.integers(1, 5)), draw(st.integers(1, 3)))
    return Case(codes, histories, k, *options, exclude_history, draw(choices(levels)))


@st.composite
def choices(draw: st.DrawFn, levels: int) -> Choice:
    """Any quotas."""
    most = draw(st.lists(st.integers(0, 30), max_size=max(0, levels - 1)))
    limit = st.one_of(st.none(), st.floats(-2, 6))
    return Choice(
        speculation=draw(st.sampled_from(["draft", "draft", "draft", "trie", "none"])),
        most=most,
        within=draw(st.lists(limit, min_size=len(most), max_size=len(most))),
        ranked_levels=draw(st.integers(0, len(most))),
        total=draw(st.one_of(st.none(), st.integers(1, 40))),
        repair_subtree=draw(st.sampled_from([0, 1, 8, 512])),
    )


def with_quotas(*most: int, ranked_levels: int = 2, total: int | None = None) -> Case:
    choice = Choice(speculation="draft", most=list(most), ranked_levels=ranked_levels, total=total)
    codes = [(a, b, c) for a in range(3) for b in range(2) for c in range(2)]
    return Case(codes, [["0", "3"], ["11"]], 3, 4, 2, 0, False, choice)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
@example(with_quotas(0))
@example(with_quotas(2, 0))
@example(with_quotas(3, 4, ranked_levels=1, total=1))  # subtrees of what the total left out would hang in the air
def test_strict_equals_generate_on_random_tries(case):
    options = {"draft_beams": case.beams, "draft_steps": case.steps, "exclude_history": case.exclude_history}
    recommender = build_recommender(make_catalog(case.codes), draft_seed=case.draft_seed, **options)
    levels = recommender.catalog.num_levels
    expected = recommender.generate(case.histories, case.k)
    prompt_once = recommender.generate(case.histories, case.k, prompt_once=True)
    plain = recommender.recommend(case.histories, case.k, "none")
    strict = recommender.recommend(case.histories, case.k, "strict")
    by_trie = replace(recommender, draft=None).recommend(case.histories, case.k, "strict")
    oracle = recommender.prepare_oracle(case.histories, case.k)()
    published = recommender.search_as_published(case.histories, case.k)
    row = Planned(prompt_tokens=0, k=case.k, batch=1, choice=case.choice)
    chosen = replace(recommender, plan=Plan([row], {})).recommend(case.histories, case.k, "strict")
    alone = [recommender.recommend([history], case.k, "strict").items[0] for history in case.histories]
    assert plain.items == strict.items == by_trie.items == oracle.items == published.items == alone == expected.items
    assert chosen.items == prompt_once.items == expected.items
    if case.exclude_history:
        assert not any(set(items) & set(history) for items, history in zip(strict.items, case.histories, strict=True))
    for ours, theirs in zip(strict.scores, expected.scores, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert set(plain.target_calls) <= {levels, 2 * levels}
    assert set(oracle.target_calls) == {1}
    for found in (strict, by_trie, chosen):
        # A decision closer than float32 can tell is settled by generate, which counts as `levels` more calls.
        sums = [s + c for s, c in zip(found.accepted_steps, found.target_calls, strict=True)]
        assert set(sums) <= {levels, 2 * levels}
    if case.draft_seed == 1 and len(case.codes) <= 40:  # the draft does the same search, and no subtree is too large
        assert strict.accepted_steps == [levels - 1] * len(case.histories)


@pytest.mark.parametrize("k", [3, 5, 8])
def test_a_tie_ends_as_generate_ends_it(k):
    """Codes with the same weights: what float32 cannot tell apart, generate decides."""
    codes = [(a, b, c) for a in range(6) for b in range(2) for c in range(2)]
    recommender = build_recommender(make_catalog(codes), draft_seed=3, draft_beams=4, exclude_history=False)
    model, first = recommender.target.model, recommender.encoder.code_ids[:6]
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            weight[first] = weight[first[0]].clone()
    histories = [["0", "3"], ["11"], ["5", "17", "20"]]
    # Each request alone: among ties generate does not decide the same in a batch, nor on every processor.
    expected = [recommender.generate([history], k).items[0] for history in histories]
    for verification in ("none", "strict"):
        found = recommender.recommend(histories, k, verification)
        assert found.items == expected
        assert min(found.target_calls) > 3  # generate's were counted


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], int, int, int, int]:
    levels = draw(st.integers(2, 5))
    widths = [draw(st.sampled_from([1, 2, 3, 9])) for _ in range(levels)]
    rng = random.Random(draw(st.integers(0, 10**6)))
    codes = list({tuple(rng.randrange(w) for w in widths) for _ in range(draw(st.sampled_from([2, 9, 60])))})
    k = draw(st.integers(1, min(12, len(codes))))
    return codes, k, draw(st.integers(0, 30)), draw(st.sampled_from([0, 1, 5, 100])), draw(st.integers(0, 10**6))


@settings(max_examples=EXAMPLES, deadline=None)
@given(trees(), st.booleans())
def test_no_proposal_changes_a_list_whether_best_or_drawn(tree, drawn):
    codes, k, proposed, repair_subtree, seed = tree
    catalog, histories = make_catalog(codes), [["0"] * 3, [str(len(codes) - 1)], ["0", str(len(codes) - 1)]]
    rng, trie = random.Random(seed), catalog.trie
    rows = []
    for _ in histories:  # any set of inner nodes that holds the parents of its nodes
        row: list[int] = []
        for _ in range(proposed):
            below = [n for n in range(1, trie.first_leaf) if n not in row and trie.parent[n] in (0, *row)]
            row += rng.sample(below, min(1, len(below)))
        rows.append(row + [-1] * (proposed - len(row)))
    proposal = torch.tensor(rows, dtype=torch.long).view(len(histories), -1)
    rule = GumbelTopK(seed, torch.arange(3), 2.0) if drawn else None
    start = torch.zeros(3, 0, dtype=torch.long)
    plain = search(make_tree(catalog, histories), start, k, rule=rule)
    found = search(make_tree(catalog, histories), proposal, k, rule=rule, repair_subtree=repair_subtree)
    clear = plain.margin > 1e-4
    assert found.leaves[clear].tolist() == plain.leaves[clear].tolist()
    assert found.beams[clear].tolist() == plain.beams[clear].tolist()
    torch.testing.assert_close(found.scores[clear], plain.scores[clear], atol=1e-3, rtol=1e-4)
    assert (found.target_calls <= trie.num_levels).all()
    if repair_subtree == 100 and trie.first_leaf <= 100:
        assert (found.target_calls <= 2).all()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_lists_drawn_without_replacement_follow_the_law_of_the_target(k):
    """Plackett-Luce: the first leaf by its probability, each next one in proportion among those that are left."""
    catalog = make_catalog([(a, b, c) for a in range(2) for b in range(2) for c in range(2)][:7])
    batch, temperature = 6000, 3.0
    tree = make_tree(catalog, [["1", "2"]])
    tree.score(torch.arange(1, catalog.trie.first_leaf)[None])
    law = leaf_law(tree, temperature)
    expected = {row: batch * plackett_luce(row, law) for row in permutations(range(7), k)}
    rule = GumbelTopK(5, torch.arange(batch), temperature)
    proposal = torch.arange(1, 3).expand(batch, -1)  # right or wrong, it must not matter
    found = search(make_tree(catalog, [["1", "2"]] * batch), proposal, k, rule=rule, repair_subtree=1)
    drawn = Counter(map(tuple, (found.leaves - catalog.trie.first_leaf).tolist()))
    assert set(drawn) <= set(expected)
    often = [row for row, count in expected.items() if count >= 5]
    rest = [sum(counts[row] for row in expected if expected[row] < 5) for counts in (drawn, expected)]
    observed, wanted = [drawn[row] for row in often], [expected[row] for row in often]
    if rest[1]:
        observed, wanted = [*observed, rest[0]], [*wanted, rest[1]]
    assert chisquare(observed, wanted).pvalue > 1e-4


def plackett_luce(row: tuple[int, ...], law: list[float]) -> float:
    """Probability of the leaves `row` in this order, drawn without replacement."""
    chance, left = 1.0, 1.0
    for leaf in row:
        chance *= law[leaf] / left
        left -= law[leaf]
    return chance


def leaf_law(tree: ScoredTree, temperature: float) -> list[float]:
    """Probability of each leaf when codes are drawn level by level from the target over the valid codes."""
    probabilities = {0: 1.0}
    for node in range(tree.trie.first_leaf):
        children, step = tree.next_log_probs(torch.tensor([[node]]))
        shares = torch.softmax(step.double() / temperature, -1)[0, 0].tolist()
        for child, share in zip(children[0, 0].tolist(), shares, strict=True):
            if child >= 0:
                probabilities[child] = probabilities[node] * share
    return [probabilities[leaf] for leaf in range(tree.trie.first_leaf, len(probabilities))]


@pytest.fixture
def codes() -> list[tuple[int, ...]]:
    return [(a, b, c) for a in range(4) for b in range(3) for c in range(2)]


def test_a_proposal_that_is_always_wrong_changes_no_list_and_accepts_no_step(codes):
    catalog = make_catalog(codes)
    histories = [["1", "2"], ["9", "3", "4"]]
    plain = beam_search(make_tree(catalog, histories), 2)
    wrong = [sorted(set(range(1, 5)) - set(row[0].tolist()))[:2] for row in plain.beams]
    found = search(make_tree(catalog, histories), torch.tensor(wrong), 2)
    assert found.leaves.tolist() == plain.leaves.tolist()
    assert found.accepted_steps.tolist() == [0, 0]
    assert found.target_calls.tolist() == [3, 3]
    assert found.target_nodes.tolist() == [2 + 2 * 2, 2 + 2 * 2]


def test_a_repair_with_whole_subtrees_ends_the_search(codes):
    catalog = make_catalog(codes)
    histories = [["1", "2"], ["9", "3", "4"]]
    found = search(make_tree(catalog, histories), torch.zeros(2, 0, dtype=torch.long), 2, repair_subtree=100)
    assert found.leaves.tolist() == beam_search(make_tree(catalog, histories), 2).leaves.tolist()
    assert found.target_calls.tolist() == [2, 2]
    assert found.target_nodes.tolist() == [2 * 4, 2 * 4]  # two beams of level 1 with their three children


def test_all_codes_of_level_one_leave_two_calls_at_any_k(codes):
    catalog = make_catalog(codes)
    for k in (1, 5, 24):
        tree = make_tree(catalog, [["1", "2"], ["5"]])
        found = search(tree, propose_level_one(tree.trie, 2, 4), k, repair_subtree=100)
        assert found.leaves.tolist() == beam_search(make_tree(catalog, [["1", "2"], ["5"]]), k).leaves.tolist()
        assert (found.target_calls <= 2).all()


def test_a_missing_beam_that_cannot_reach_the_list_is_not_scored():
    catalog = make_catalog([(0, b) for b in range(8)] + [(1, b) for b in range(8)])
    tree = make_tree(catalog, [["1", "2"]])
    plain = beam_search(make_tree(catalog, [["1", "2"]]), 2)
    best = plain.beams[0, 0, :1]
    found = search(tree, best[None], 2)
    second = float(next(s for n, s in zip(*first_level(catalog), strict=True) if n != int(best)))
    assert found.leaves.tolist() == plain.leaves.tolist()
    assert found.target_calls.tolist() == [1 if second < float(plain.scores[0, 1]) else 2]


def first_level(catalog: Catalog) -> tuple[list[int], list[float]]:
    tree = make_tree(catalog, [["1", "2"]])
    tree.score(torch.full((1, 1), -1))
    children, step = tree.next_log_probs(torch.zeros(1, 1, dtype=torch.long))
    return children.flatten().tolist(), step.flatten().tolist()


def test_requests_of_a_batch_finish_at_their_own_pace(codes):
    catalog = make_catalog(codes)
    histories = [["1", "2"], ["9", "3", "4"], ["5"]]
    plain = beam_search(make_tree(catalog, histories), 3)
    proposals = plain.beams.flatten(1).clone()
    proposals[1, 3:] = -1  # right at depth 1, nothing at depth 2
    proposals[2] = -1
    found = search(make_tree(catalog, histories), proposals, 3)
    assert found.accepted_steps.tolist() == [2, 1, 0]
    assert found.target_calls.tolist() == [1, 2, 3]
    assert found.leaves.tolist() == plain.leaves.tolist()


@pytest.mark.parametrize("total", [1, 5, 17, 60, 1000])
def test_a_total_keeps_the_nodes_nearest_above_their_limits_and_their_parents(total: int) -> None:
    catalog = make_catalog([(a, b, c, d) for a in range(4) for b in range(3) for c in range(2) for d in range(2)])
    model = AutoregressivePrefixes(make_tree(catalog, [["1", "2"], ["9"]], seed=4))
    free = Quotas((4, 12, 24), (2.0, 5.0, 5.0), 3)
    every = propose(model, free, BestScore(), 3, 2)
    model = AutoregressivePrefixes(make_tree(catalog, [["1", "2"], ["9"]], seed=4))
    kept = propose(model, replace(free, total=total), BestScore(), 3, 2)
    trie = model.trie
    for row, whole in zip(kept, every, strict=True):
        nodes, all_nodes = set(row[row >= 0].tolist()), set(whole[whole >= 0].tolist())
        assert len(nodes) == min(total, len(all_nodes))
        assert nodes <= all_nodes
        seen = {0}
        for node in row[row >= 0].tolist():
            assert int(trie.parents(torch.tensor(node))) in seen
            seen.add(node)
