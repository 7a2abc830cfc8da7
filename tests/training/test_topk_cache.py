import numpy as np
import pytest
import torch

from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.errors import UserError
from atspeed_core.training.prefix_trees import kth_path, prefix_tree
from atspeed_core.training.topk_cache import (
    Context,
    TopkCache,
    TopkSearch,
    choose_contexts,
    shard_name,
    write_index,
    write_shards,
)
from tests.tiny_models import make_catalog, make_recommender

CODES = [(a, b, c) for a in range(4) for b in range(3) for c in range(2)]
SEQUENCES = [[str((7 * u + i * i) % 24) for i in range(3 + u)] for u in range(9)]
K = 5


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    return make_recommender(make_catalog(CODES), tmp_path_factory.mktemp("models"))


def search_of(recommender):
    return TopkSearch(recommender.target, recommender.encoder, recommender.trie, K, batch_size=4)


def write(folder, recommender, contexts):
    histories = [SEQUENCES[c.user][: c.position] for c in contexts]
    index = write_shards(folder, contexts, histories, search_of(recommender), contexts_per_shard=6)
    write_index(folder, index)
    return index


def test_contexts_are_distinct_cuts_and_hold_every_users_last_item():
    contexts = choose_contexts([0, 1, 2, 10], 4, seed=0)
    assert len(set(contexts)) == len(contexts) == 1 + 4
    assert Context(2, 1) in contexts
    assert Context(3, 9) in contexts
    assert all(1 <= c.position <= 9 for c in contexts)
    assert choose_contexts([0, 1, 2, 10], 4, seed=0) == contexts


def test_a_rollout_is_a_context_with_what_the_target_says_after_it(tmp_path, recommender):
    observed = choose_contexts([len(s) for s in SEQUENCES], 1, seed=0)
    rollouts = [Context(2, 5, (3,)), Context(2, 5, (3, 20)), Context(4, 7, (11,))]
    histories = [SEQUENCES[c.user][: c.position] + [recommender.catalog.items[i] for i in c.rollout] for c in rollouts]
    before = [SEQUENCES[c.user][: c.position] for c in observed]
    search = search_of(recommender)
    index = write_shards(tmp_path, observed + rollouts, before + histories, search, contexts_per_shard=6)
    write_index(tmp_path, index)
    cache = TopkCache(tmp_path)
    assert (len(cache), cache.index.num_observed, cache.index.num_users) == (12, 9, 9)
    batch = cache.batch(np.array([9, 11, 10, 0]), recommender.trie)
    assert batch.contexts == [rollouts[0], rollouts[2], rollouts[1], observed[0]]
    assert [context.observed for context in batch.contexts] == [False, False, False, True]
    lists = recommender.recommend([histories[0], histories[2], histories[1], before[0]], K, "none")
    assert [recommender.catalog.items_of_leaves(row) for row in batch.leaves.tolist()] == lists.items


@torch.no_grad()
def test_what_is_read_is_what_the_target_says(tmp_path, recommender):
    contexts = choose_contexts([len(s) for s in SEQUENCES], 2, seed=0)
    index = write(tmp_path, recommender, contexts)
    assert index.num_users == 9
    assert index.num_bytes == sum(p.stat().st_size for p in tmp_path.glob("shard-*"))
    cache = TopkCache(tmp_path)
    rows = np.array([11, 0, 7])
    batch = cache.batch(rows, recommender.trie)
    histories = [SEQUENCES[contexts[r].user][: contexts[r].position] for r in rows]
    assert batch.contexts == [contexts[r] for r in rows]
    lists = recommender.recommend(histories, K, "none")
    assert [recommender.catalog.items_of_leaves(row) for row in batch.leaves.tolist()] == lists.items
    tree = ScoredTree(recommender.target, recommender.trie, *recommender.encode(histories))
    tree.score(batch.nodes)
    torch.testing.assert_close(batch.log_p, tree.next_log_probs(batch.nodes)[1], atol=0.02, rtol=2e-3)
    torch.testing.assert_close(batch.weights.sum(1), torch.ones(3))


def test_a_stopped_run_keeps_its_whole_shards_and_ends_the_same(tmp_path, recommender):
    contexts = choose_contexts([len(s) for s in SEQUENCES], 2, seed=0)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    write(whole, recommender, contexts)
    write(stopped, recommender, contexts)
    (stopped / shard_name(1)).unlink()
    (stopped / shard_name(2)).write_bytes((whole / shard_name(2)).read_bytes())
    before = (stopped / shard_name(0)).stat().st_mtime_ns
    write(stopped, recommender, contexts)
    assert (stopped / shard_name(0)).stat().st_mtime_ns == before
    for path in whole.iterdir():
        assert path.read_bytes() == (stopped / path.name).read_bytes()


@pytest.mark.parametrize("damage", ["missing", "cut", "no index"])
def test_a_damaged_cache_is_refused(tmp_path, recommender, damage):
    write(tmp_path, recommender, choose_contexts([len(s) for s in SEQUENCES], 2, seed=0))
    shard = tmp_path / shard_name(1)
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:100])
    else:
        (tmp_path / "index.json").unlink()
    with pytest.raises(UserError, match="cache_topk"):
        TopkCache(tmp_path)


def test_prefix_tree_counts_the_sequences_that_pass(recommender):
    trie = recommender.trie
    first = recommender.catalog.trie.first_leaf
    leaves = torch.tensor([[first, first + 1, first + 6, -1]])  # identifiers 000, 001 and 100
    tree = prefix_tree(leaves, trie)
    paths = {
        tuple(
            int(trie.codes(torch.tensor(a))) for a in reversed(trie.ancestors(torch.tensor(n)).tolist()) if a > 0
        ): float(w) * 9
        for n, w in zip(tree.nodes[0].tolist(), tree.weights[0], strict=True)
    }
    (a0, b0), a1 = recommender.catalog.codes[0, :2].tolist(), int(recommender.catalog.codes[6, 0])
    assert paths == pytest.approx({(): 3, (a0,): 2, (a0, b0): 2, (a1,): 1, (a1, b0): 1})
    path = kth_path(leaves, trie)[0].tolist()
    assert path[-1] == first + 6
    assert trie.depth_of(torch.tensor(path)).tolist() == [1, 2, 3]
