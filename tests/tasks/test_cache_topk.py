"""The stage cache_topk beyond its files: what it asks the target about."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.errors import UserError
from tasks.cache_topk import observed, rolled_out
from tests.complete_params import CacheTopk
from tests.decoding.test_search import leaf_law
from tests.tiny_models import make_catalog, make_recommender

CODES = [(a, b, c) for a in range(3) for b in range(2) for c in range(1)]
SEQUENCES = [["0", "3"], [], ["5"], ["1", "2", "4"]]


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    return make_recommender(make_catalog(CODES), tmp_path_factory.mktemp("models"))


def test_users_without_an_item_that_came_next_are_a_readable_mistake():
    assert [(c.user, c.position) for c in observed(SEQUENCES[:3], CacheTopk())] == [(0, 1)]
    with pytest.raises(UserError, match=r"train\.parquet: no user has two known items.*prepare_data"):
        observed([["0"], [], ["5"]], CacheTopk())


def test_every_training_history_is_rolled_out(recommender):
    settings = CacheTopk(rollouts_per_user=2, rollout_items=3, batch_size=4)
    contexts = rolled_out(recommender, SEQUENCES, settings)
    assert [(c.user, c.position) for c in contexts] == [(u, len(SEQUENCES[u])) for u in (0, 2, 3) for _ in range(6)]
    assert [len(c.rollout) for c in contexts] == [1, 2, 3] * 6
    for first, longest in zip(contexts[::3], contexts[2::3], strict=True):
        assert longest.rollout[:1] == first.rollout
    assert rolled_out(recommender, SEQUENCES, settings) == contexts
    assert rolled_out(recommender, SEQUENCES, settings.model_copy(update={"seed": 1})) != contexts
    assert rolled_out(recommender, SEQUENCES, CacheTopk()) == []


def test_speculation_gives_the_same_rollouts(recommender, monkeypatch):
    settings = CacheTopk(rollouts_per_user=5, rollout_items=3, batch_size=4)
    contexts = rolled_out(recommender, SEQUENCES, settings)
    monkeypatch.setattr(type(recommender), "without_speculation", lambda self: self)
    assert rolled_out(recommender, SEQUENCES, settings) == contexts


def test_its_items_are_sampled_from_the_targets_distribution(recommender):
    history = ["0", "3"]
    settings = CacheTopk(rollouts_per_user=2000, rollout_items=1, batch_size=200)
    counts = Counter(context.rollout[0] for context in rolled_out(recommender, [history], settings))
    tree = ScoredTree(recommender.target, recommender.trie, *recommender.encode([history]))
    with torch.no_grad():
        tree.score(torch.arange(1, recommender.catalog.trie.first_leaf)[None])
        probabilities = leaf_law(tree, temperature=1.0)
    sampled = [counts[place] for place in np.argsort(recommender.catalog.trie.leaf_of_item)]
    assert chisquare(sampled, [2000 * p for p in probabilities]).pvalue > 1e-3
