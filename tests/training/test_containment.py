"""What must be beaten for the target's prefixes to be drafted, against drafting itself."""

import numpy as np
import pytest
import torch

from atspeed_core.decoding.beam_rules import BestScore
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.drafters import AutoregressivePrefixes, Quotas, rank
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.settings import PrefixContainment
from atspeed_core.training.containment import containment
from tests.tiny_models import make_model
from tests.training.test_alignment import data  # noqa: F401


def drafted(draft, trie, prompts, mask, most) -> list[set[int]]:
    """For each request the nodes that drafting proposes with these quotas."""
    model = AutoregressivePrefixes(ScoredTree(draft, trie, prompts, mask))
    levels = rank(model, Quotas(tuple(most), (torch.inf,) * 2, 2), BestScore(), 4, len(prompts))
    return [set(torch.cat([level.nodes[row] for level in levels]).tolist()) for row in range(len(prompts))]


@pytest.mark.parametrize("most", [[2, 4], [2, 12], [4, 4], [3, 6]])
@pytest.mark.parametrize("seed", [5, 6, 7])
@torch.no_grad()
def test_contained_says_whether_drafting_proposes_all_prefixes_of_the_target_s_sequences(data, most, seed):  # noqa: F811
    draft = CodeModel(make_model(build_tokenizer(data.encoder.catalog.code_tokens), seed=seed), data.encoder.code_ids)
    found, expected = [], []
    for number in range(12):
        cached = data.cache.batch(np.array([number]), data.trie)
        prompts, mask = data.prompts(cached.contexts)
        prefixes = set(data.trie.ancestors(cached.leaves)[..., 1:].flatten().tolist()) - {-1}
        expected.append(float(prefixes <= drafted(draft, data.trie, prompts, mask, most)[0]))
        asked = PrefixContainment(nodes=most)
        found.append(float(containment(draft, data.trie, prompts, mask, cached.leaves, asked)[1]))
    assert found == expected


@torch.no_grad()
def test_with_room_for_every_node_nothing_is_lost(data):  # noqa: F811
    draft = CodeModel(make_model(build_tokenizer(data.encoder.catalog.code_tokens), seed=5), data.encoder.code_ids)
    cached = data.cache.batch(np.arange(6), data.trie)
    asked = PrefixContainment(nodes=[4, 12])
    loss, contained = containment(draft, data.trie, *data.prompts(cached.contexts), cached.leaves, asked)
    assert (float(loss), float(contained)) == (0, 1)
    tight, _ = containment(
        draft, data.trie, *data.prompts(cached.contexts), cached.leaves, PrefixContainment(nodes=[2, 4])
    )
    assert float(tight) > 0.5
