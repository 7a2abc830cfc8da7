"""Without tree attention: the same scores and lists, path by path."""

from dataclasses import replace

import pytest
import torch

from atspeed_core.decoding.path_rows import PathRows
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.recommender import Recommender
from tests.tiny_models import build_recommender, make_catalog, make_tree

CODES = [(a, b, c, d) for a in range(3) for b in range(2) for c in range(2) for d in range(2)]
HISTORIES = [["0", "5", "7", "2"], ["3"], ["20", "11"]]
ROUNDS = [
    [[1, 4, 3, 8, 10], [2, 6, -1, -1, -1], [-1, -1, -1, -1, -1]],
    [[2, -1], [1, 14], [3, 9]],
    [[5, 6, 12], [-1, -1, -1], [20, -1, -1]],
]


def path_rows(tree: ScoredTree) -> PathRows:
    return PathRows(tree.model, tree.trie, tree._prompts, tree._mask.long())


def without_tree_attention(recommender: Recommender) -> Recommender:
    return replace(recommender, decoding=recommender.decoding.model_copy(update={"tree_attention": False}))


@torch.no_grad()
@pytest.mark.parametrize("with_decoder", [False, True])
def test_scores_are_those_of_the_tree(with_decoder):
    catalog = make_catalog(CODES)
    if with_decoder:
        made = build_recommender(catalog, draft_seed=2, draft_beams=4, exclude_history=False)
        request = made.prepare(HISTORIES, 4)
        tree, rows = made.target_tree(request), without_tree_attention(made).target_tree(request)
    else:
        tree = make_tree(catalog, HISTORIES)
        rows = path_rows(tree)
    assert type(rows) is PathRows
    assert type(tree) is ScoredTree
    for nodes in map(torch.tensor, ROUNDS):
        for each in (tree, rows):
            each.score(nodes)
        assert rows.nodes.tolist() == tree.nodes.tolist()
        scored = tree.nodes >= 0
        torch.testing.assert_close(rows.log_probs[scored], tree.log_probs[scored], atol=1e-4, rtol=1e-4)
    assert rows.num_calls == tree.num_calls == 3
    assert rows.num_nodes > tree.num_nodes
    left = torch.tensor([2, 0])
    for each in (tree, rows):
        each.select(left)
        each.score(torch.tensor([[1], [7]]))
    torch.testing.assert_close(rows.log_probs[:, -1], tree.log_probs[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_lists_are_the_same(k):
    tree = build_recommender(make_catalog(CODES), draft_seed=2, draft_beams=12, exclude_history=True)
    rows = without_tree_attention(tree)
    for verification in ("none", "strict", "relaxed", "exact_sampling"):
        expected = tree.recommend(HISTORIES, k, verification, seed=4)
        found = rows.recommend(HISTORIES, k, verification, seed=4)
        assert found.items == expected.items
        assert found.target_calls == expected.target_calls
    assert rows.search_as_published(HISTORIES, k).items == tree.search_as_published(HISTORIES, k).items
