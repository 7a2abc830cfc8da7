import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from atspeed_core.decoding.selection import sample_without_replacement, stable_topk

scores = st.lists(st.sampled_from([-torch.inf, -3.5, -1.0, -0.0, 0.0, 2.0**-100, 2.0, 7.5]), min_size=1, max_size=12)


@given(scores, st.data())
def test_topk_is_a_stable_descending_sort(values, data):
    k = data.draw(st.integers(1, len(values)))
    kept, indices = stable_topk(torch.tensor(values), k)
    assert indices.tolist() == sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert kept.tolist() == [values[i] for i in indices.tolist()]


def test_draws_follow_the_law_without_replacement():
    weights = np.array([0.5, 0.3, 0.15, 0.05])
    draws = 20_000
    generator = torch.Generator().manual_seed(0)
    log_weights = torch.tensor(weights, dtype=torch.float32).log().expand(draws, -1)
    pairs = sample_without_replacement(log_weights, 2, generator).tolist()
    expected = {(i, j): weights[i] * weights[j] / (1 - weights[i]) for i, j in itertools.permutations(range(4), 2)}
    observed = [sum(tuple(p) == pair for p in pairs) for pair in expected]
    assert chisquare(observed, [draws * e for e in expected.values()]).pvalue > 1e-4


def test_impossible_entries_are_drawn_last():
    weights = torch.tensor([-torch.inf, 0.0, -torch.inf, -5.0])
    drawn = sample_without_replacement(weights, 4, torch.Generator().manual_seed(1)).tolist()
    assert set(drawn[:2]) == {1, 3}
