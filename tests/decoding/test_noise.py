import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.decoding.noise import _gumbel, conditional_gumbels, keyed_gumbel
from atspeed_core.decoding.selection import stable_topk
from atspeed_core.identifiers.trie import build_trie

numbers = st.integers(0, 2**62)
SAMPLES = 50_000


def noise_along(axis: str, start: int = 0) -> torch.Tensor:
    """Noise of neighbouring nodes, requests or seeds, the other two fixed."""
    span = torch.arange(start, start + SAMPLES)
    if axis == "nodes":
        return keyed_gumbel(3, torch.tensor([5]), span[None])[0]
    if axis == "requests":
        return keyed_gumbel(3, span, torch.full((SAMPLES, 1), 7))[:, 0]
    return torch.cat([keyed_gumbel(seed, torch.arange(50), torch.full((50, 1), 7))[:, 0] for seed in range(1000)])


@pytest.mark.parametrize("axis", ["nodes", "requests", "seeds"])
def test_noise_follows_the_standard_gumbel_law(axis):
    assert stats.kstest(noise_along(axis).numpy(), stats.gumbel_r.cdf).pvalue > 0.01


def test_large_noise_is_as_frequent_as_it_should_be():
    noise = keyed_gumbel(0, torch.arange(100), torch.arange(40_000).expand(100, -1))
    for limit in (8.0, 10.0, 12.0):
        expected = noise.numel() * stats.gumbel_r.sf(limit)
        assert abs(int((noise > limit).sum()) - expected) < 4 * math.sqrt(expected)


@pytest.mark.parametrize("other", [(3, 0, 1), (3, 1, 0), (4, 0, 0), (3, 1, -1), (2, 1, 0), (5, -2, 1)])
def test_neighbours_are_independent(other):
    seed, request, node = other
    requests, nodes = torch.arange(100, 300), torch.arange(100, 350).expand(200, -1)
    one = keyed_gumbel(3, requests, nodes).flatten().numpy()
    two = keyed_gumbel(seed, requests + request, nodes + node).flatten().numpy()
    uniform = stats.gumbel_r.cdf(np.stack([one, two]))
    cells = np.histogram2d(*uniform, bins=8, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.ravel()).pvalue > 0.001


@given(st.lists(st.tuples(numbers, st.lists(numbers, min_size=3, max_size=3)), min_size=1, max_size=6), st.integers())
def test_noise_is_the_same_in_any_batch(asked, seed):
    requests, nodes = torch.tensor([r for r, _ in asked]), torch.tensor([n for _, n in asked])
    together = keyed_gumbel(seed, requests, nodes)
    for row, (request, found) in enumerate(asked):
        alone = keyed_gumbel(seed, torch.tensor([request]), torch.tensor([[found[::-1]]]))
        torch.testing.assert_close(alone[0, 0].flip(0), together[row], rtol=3e-7, atol=1e-12)  # one float32 apart


@given(st.integers(), numbers, st.integers(NO_NODE, 2**62))
def test_noise_is_splitmix64_as_python_computes_it(seed, request, node):
    def drawn(start: int, place: int) -> int:
        state = (start + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
        for shift, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ state >> shift) * multiplier % 2**64
        return state ^ state >> 31

    bits = drawn(drawn(drawn(0, seed), request), node) >> 12
    expected = -math.log(-math.log((bits + 0.5) / 2**52))
    found = keyed_gumbel(seed, torch.tensor([request]), torch.tensor([[node]]))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_the_most_extreme_bits_give_finite_noise():
    low, high = _gumbel(torch.tensor([0, -1])).tolist()
    assert low == pytest.approx(-math.log(53 * math.log(2)), rel=1e-6)
    assert high == pytest.approx(53 * math.log(2), rel=1e-6)


logs = st.floats(-60, 0, width=32)
gumbels = st.floats(-3.5, 36, width=32)
children = st.lists(st.tuples(st.one_of(logs, st.just(-math.inf)), gumbels), min_size=1, max_size=8)


@given(st.floats(-90, 40, width=32), children)
def test_the_largest_key_is_exactly_the_parents(parent_key, rows):
    location, noise = torch.tensor(rows).T
    keys = conditional_gumbels(torch.tensor([[parent_key]]), location[None, None], noise[None, None])[0, 0]
    exists = location > -math.inf
    assert (keys[~exists] == -math.inf).all()
    if exists.any():
        assert keys.max() == parent_key
        assert keys[exists].isfinite().all()
        assert keys[(location + noise).argmax()] == parent_key


def test_children_of_no_beam_have_no_keys():
    keys = conditional_gumbels(torch.tensor([[-math.inf]]), torch.full((1, 1, 2), -math.inf), torch.zeros(1, 1, 2))
    assert (keys == -math.inf).all()


def test_without_the_condition_keys_are_independent_gumbels():
    """A Gumbel maximum at the parent's location and keys given that maximum: together they are free Gumbels."""
    location = torch.tensor([0.05, 0.6, 0.35]).log()
    requests = torch.arange(SAMPLES)
    noise = keyed_gumbel(0, requests, torch.arange(4).expand(SAMPLES, -1))
    keys = conditional_gumbels(noise[:, :1], location.expand(SAMPLES, 1, 3), noise[:, None, 1:])[:, 0]
    free = (keys - location).numpy()
    for child in range(3):
        assert stats.kstest(free[:, child], stats.gumbel_r.cdf).pvalue > 0.01
    cells = np.histogramdd(stats.gumbel_r.cdf(free), bins=[4] * 3, range=[[0, 1]] * 3)[0]
    assert stats.chisquare(cells.ravel()).pvalue > 0.01


def draw_leaves(trie: DeviceTrie, step: torch.Tensor, requests: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    """[B, k] leaves drawn by stochastic beam search; `step` [nodes] is each node's log-probability given its parent."""
    batch = len(requests)
    nodes, keys, scores = torch.zeros(batch, 1, dtype=torch.long), torch.zeros(batch, 1), torch.zeros(batch, 1)
    for depth in range(trie.num_levels):
        found = trie.children(nodes, depth)
        location = (scores.unsqueeze(-1) + step[found]).masked_fill(found == NO_NODE, -torch.inf)
        child_keys = conditional_gumbels(keys, location, keyed_gumbel(seed, requests, found))
        keys, chosen = stable_topk(child_keys.flatten(1), min(k, found[0].numel()))
        nodes, scores = found.flatten(1).gather(1, chosen), location.flatten(1).gather(1, chosen)
    return nodes


def random_steps(trie: DeviceTrie, rng: np.random.Generator) -> torch.Tensor:
    """[nodes] log-probability of each node given its parent."""
    weights = torch.from_numpy(rng.gamma(2.0, size=trie.num_nodes))
    parents = trie.parents(torch.arange(trie.num_nodes)).clamp(min=0)
    totals = torch.zeros_like(weights).index_add(0, parents[1:], weights[1:])
    return torch.where(torch.arange(trie.num_nodes) > 0, (weights / totals[parents]).log(), 0.0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stochastic_beam_search_draws_without_replacement(seed):
    rng = np.random.default_rng(seed)
    trie = DeviceTrie.build(build_trie(rng.integers(0, 3, size=(9, 3))))
    step = random_steps(trie, rng)
    leaves = torch.arange(trie.first_leaf, trie.num_nodes)
    p = step[trie.ancestors(leaves)].sum(1).exp().tolist()
    expected = {(a, b): p[a] * p[b] / (1 - p[a]) * SAMPLES for a, b in permutations(range(len(p)), 2)}
    draws = draw_leaves(trie, step.float(), torch.arange(SAMPLES), k=2, seed=seed) - trie.first_leaf
    observed = Counter(map(tuple, draws.tolist()))
    assert min(expected.values()) > 5
    assert set(observed) <= set(expected)  # never the same leaf twice
    assert stats.chisquare([observed[pair] for pair in expected], list(expected.values())).pvalue > 0.01
