from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.training.windows import IGNORED, cut_windows, epoch_windows, token_batch
from tests.tiny_models import make_catalog


@given(st.integers(0, 60), st.integers(2, 12), st.data())
def test_every_item_but_the_first_is_a_target_exactly_once(length, num_items, data):
    offset = data.draw(st.integers(0, num_items - 2))
    windows = list(cut_windows(np.arange(length), num_items, offset))
    targets = Counter(int(item) for window in windows for item in window[1:])
    assert targets == Counter(range(1, length))
    assert all(1 < len(w) <= num_items and (np.diff(w) == 1).all() for w in windows)


def test_an_epoch_depends_on_its_seed_alone():
    sequences = [np.arange(n) for n in (5, 17, 40)]
    first, again, other = (epoch_windows(sequences, window_items=8, batch_size=2, seed=[1, e]) for e in (1, 1, 2))
    assert [w.tolist() for w in first] == [w.tolist() for w in again]
    assert [w.tolist() for w in first] != [w.tolist() for w in other]


def test_a_batch_holds_windows_of_similar_length_and_no_window_is_lost():
    lengths = np.random.default_rng(0).integers(2, 20, 1003)
    windows = epoch_windows([np.full(n, i) for i, n in enumerate(lengths)], window_items=40, batch_size=10, seed=[0])
    cut = epoch_windows([np.full(n, i) for i, n in enumerate(lengths)], window_items=40, batch_size=1003, seed=[0])
    assert Counter(map(len, windows)) == Counter(map(len, cut))
    batches = [[len(w) for w in windows[start : start + 10]] for start in range(0, len(windows), 10)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(map(len, windows))
    assert [batch[0] for batch in batches] != sorted(batch[0] for batch in batches)


def test_labels_leave_out_prefix_padding_and_the_first_item():
    catalog = make_catalog([(a, b) for a in range(2) for b in range(2)])
    tokenizer = build_tokenizer(catalog.code_tokens)
    encoder = PromptEncoder.build(tokenizer, catalog, max_history=5)
    batch = token_batch([np.array([0, 1, 2]), np.array([3, 0])], encoder)
    tokens = encoder.item_tokens
    assert batch.labels[0].tolist() == [IGNORED] * 3 + tokens[1].tolist() + tokens[2].tolist()
    assert batch.labels[1].tolist() == [IGNORED] * 5 + tokens[0].tolist()
    assert batch.mask.sum(1).tolist() == [7, 5]
    assert torch.equal(batch.ids[batch.labels != IGNORED], batch.labels[batch.labels != IGNORED])
