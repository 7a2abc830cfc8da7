"""The law of relaxed verification: where it is the target's, where it is not, and by how much, on small tries."""

from collections import Counter
from itertools import combinations, permutations

import pytest
import torch
from scipy.stats import chisquare

from atspeed_core.decoding.acceptance import Relaxed
from atspeed_core.decoding.published import NoDrafter, RoundDrafter, UniformDrafter, search_in_rounds
from atspeed_core.decoding.retrieval import UniformTree
from tests.decoding.test_search import leaf_law
from tests.tiny_models import make_catalog, make_tree

BATCH, TEMPERATURE = 8000, 3.0
THREE_LEVELS = make_catalog([(a, b, c) for a in range(3) for b in range(2) for c in range(2)][:9])
TWO_LEVELS = make_catalog([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)])
TARGET, OTHER = 1, 3  # seeds of models


def law_of(catalog) -> list[float]:
    tree = make_tree(catalog, [["1", "2"]])
    with torch.no_grad():
        tree.score(torch.arange(1, catalog.trie.first_leaf)[None])
        return leaf_law(tree, TEMPERATURE)


def drafter_of(catalog, kind, beams, steps, generator) -> RoundDrafter:
    if kind is None:
        return NoDrafter()
    tree = make_tree(catalog, [["1", "2"]] * BATCH, seed=kind if isinstance(kind, int) else TARGET)
    drafting = UniformTree(tree.trie, BATCH) if kind == "uniform" else tree
    options = {"num_beams": beams, "num_steps": steps, "temperature": TEMPERATURE}
    return UniformDrafter(drafting, generator=generator, **options)


def drawn(catalog, k, kind, beams=1, steps=2) -> list[tuple[int, ...]]:
    """The lists of `BATCH` equal requests, as numbers of leaves in ascending order."""
    generator = torch.Generator().manual_seed(0)
    drafter = drafter_of(catalog, kind, beams, steps, generator)
    target = make_tree(catalog, [["1", "2"]] * BATCH)
    found = search_in_rounds(target, drafter, Relaxed(generator, TEMPERATURE), k)
    return [tuple(sorted(row)) for row in (found.leaves - catalog.trie.first_leaf).tolist()]


def fits(lists, law) -> float:
    """p-value of the lists under a law {list: probability}."""
    counts = Counter(lists)
    assert set(counts) <= set(law)
    return float(chisquare([counts[each] for each in law], [len(lists) * p for p in law.values()]).pvalue)


def total_variation(one, other) -> float:
    return 0.5 * sum(abs(one.get(each, 0.0) - other.get(each, 0.0)) for each in {*one, *other})


def shares(lists) -> dict[tuple[int, ...], float]:
    return {each: count / len(lists) for each, count in Counter(lists).items()}


@pytest.mark.parametrize(
    ("kind", "steps"), [(None, 0), (TARGET, 2), (OTHER, 2), (OTHER, 1), ("uniform", 2), ("uniform", 1)]
)
def test_one_draw_with_one_drafted_beam_follows_the_target_exactly(kind, steps):
    """K = N = 1 is speculative sampling, exact for any draft; without a draft there is nothing to be exact about."""
    law = {(leaf,): p for leaf, p in enumerate(law_of(THREE_LEVELS))}
    assert fits(drawn(THREE_LEVELS, 1, kind, steps=steps), law) > 1e-4


def test_one_draw_with_several_drafted_beams_leans_to_what_the_target_likes_best():
    """N > K: of all that were accepted the target's best go on, so that even a perfect draft bends the law."""
    exact = law_of(THREE_LEVELS)
    law = {(leaf,): p for leaf, p in enumerate(exact)}
    lists = drawn(THREE_LEVELS, 1, TARGET, beams=2)
    assert fits(lists, law) < 1e-6
    first_codes = [code for code, *_ in THREE_LEVELS.codes.tolist()]
    law_of_first, drawn_first = (
        [sum(p for (leaf,), p in each.items() if first_codes[leaf] == code) for code in sorted(set(first_codes))]
        for each in (law, shares(lists))
    )
    best = law_of_first.index(max(law_of_first))
    assert drawn_first[best] > law_of_first[best] + 0.1
    assert 0.2 < total_variation(shares(lists), law) < 0.5


def level_by_level(catalog) -> dict[tuple[int, ...], float]:
    """Two codes of level 1 drawn without replacement, then two of their extensions: the law without a draft, K = 2."""
    first, leaves = catalog.trie.first_leaf, law_of(catalog)
    parent = [int(catalog.trie.parent[first + leaf]) for leaf in range(len(leaves))]
    above = {node: sum(p for p, up in zip(leaves, parent, strict=True) if up == node) for node in range(1, first)}
    law: Counter[tuple[int, ...]] = Counter()
    for pair, chance in without_replacement(above).items():
        tree = make_tree(catalog, [["1", "2"]])
        with torch.no_grad():
            tree.score(torch.arange(1, first)[None])
            scores = tree.path_scores(torch.arange(first, first + len(leaves))[None])[0].double() / TEMPERATURE
        weights = {leaf: float(scores[leaf].exp()) for leaf in range(len(leaves)) if parent[leaf] in pair}
        total = sum(weights.values())
        for two, given in without_replacement({leaf: w / total for leaf, w in weights.items()}).items():
            law[two] += chance * given
    return dict(law)


def without_replacement(law: dict[int, float]) -> dict[tuple[int, ...], float]:
    """{pair in ascending order: probability} of two draws without replacement (Plackett-Luce)."""
    ordered = {(i, j): law[i] * law[j] / (1 - law[i]) for i, j in permutations(law, 2)}
    return {(i, j): ordered[i, j] + ordered[j, i] for i, j in combinations(sorted(law), 2)}


def test_longer_lists_follow_the_published_law_without_a_draft_and_that_is_not_the_target_s():
    """K = 2: the published sampling beam search draws level by level, which is no draw of whole items."""
    published, exact = level_by_level(TWO_LEVELS), without_replacement(dict(enumerate(law_of(TWO_LEVELS))))
    assert sum(published.values()) == pytest.approx(1)
    assert fits(drawn(TWO_LEVELS, 2, None), published) > 1e-4
    assert 0.01 < total_variation(published, exact) < 0.3


def test_as_many_drafted_as_listed_by_the_target_itself_follow_the_published_law():
    """K = N = 2, draft = target: all are accepted, and they were drawn as the target draws."""
    assert fits(drawn(TWO_LEVELS, 2, TARGET, beams=2), level_by_level(TWO_LEVELS)) > 1e-4


def test_as_many_drafted_as_listed_by_another_draft_follow_it_nearly():
    """K = N = 2, another law of the draft: draws without replacement are tested as if they were with replacement."""
    published, lists = level_by_level(TWO_LEVELS), drawn(TWO_LEVELS, 2, "uniform", beams=2)
    assert fits(lists, published) < 1e-3
    assert 0.01 < total_variation(shares(lists), published) < 0.1


@pytest.mark.parametrize("kind", [TARGET, OTHER, "uniform"])
def test_more_drafted_than_listed_makes_it_a_search_for_the_best(kind):
    """K = 2, N = 3: nearly all are accepted, and of these the target's best go on."""
    published, lists = level_by_level(TWO_LEVELS), drawn(TWO_LEVELS, 2, kind, beams=3)
    assert total_variation(shares(lists), published) > 0.3
