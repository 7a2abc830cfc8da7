"""What must be beaten for the target's prefixes to be drafted, against drafting itself."""

import math

import numpy as np
import pytest
import torch

from atspeed_core.decoding.beam_rules import BestScore
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.proposals import Quotas, rank
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.drafters.language_model import AutoregressivePrefixes
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.training.containment import containment
from tests.complete_params import PrefixContainment
from tests.tiny_alignment import make_alignment_data
from tests.tiny_models import make_model
from tests.training.test_alignment import path_of, plain_distribution


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_alignment_data(tmp_path_factory.mktemp("alignment"))


def drafted(draft, trie, prompts, mask, most) -> list[set[int]]:
    """For each request the nodes that drafting proposes with these quotas."""
    model = AutoregressivePrefixes(ScoredTree(draft, trie, prompts, mask))
    levels = rank(model, Quotas(tuple(most), (torch.inf,) * 2, 2), BestScore(), 4, len(prompts))
    return [set(torch.cat([level.nodes[row] for level in levels]).tolist()) for row in range(len(prompts))]


@pytest.mark.parametrize("most", [[2, 4], [2, 12], [4, 4], [3, 6]])
@pytest.mark.parametrize("seed", [5, 6, 7])
@torch.no_grad()
def test_contained_says_whether_drafting_proposes_all_prefixes_of_the_target_s_sequences(data, most, seed):
    draft = CodeModel(make_model(build_tokenizer(data.encoder.catalog.code_tokens), seed=seed), data.encoder.code_ids)
    contained, expected = [], []
    for number in range(12):
        cached = data.cache.batch(np.array([number]), data.trie)
        prompts, mask = data.prompts(cached.contexts)
        prefixes = set(data.trie.ancestors(cached.leaves)[..., 1:].flatten().tolist()) - {-1}
        expected.append(float(prefixes <= drafted(draft, data.trie, prompts, mask, most)[0]))
        options = PrefixContainment(nodes=most)
        contained.append(float(containment(draft, data.trie, prompts, mask, cached, options)[1]))
    assert contained == expected


def test_the_loss_is_the_divergence_along_each_prefix_weighted_by_how_it_stands(data):
    """By a loop over prefixes: scores and divergences of each from an ordinary forward pass."""
    draft = CodeModel(make_model(build_tokenizer(data.encoder.catalog.code_tokens), seed=5), data.encoder.code_ids)
    for number, most in ((0, [2, 4]), (3, [3, 6]), (5, [4, 12])):
        cached = data.cache.batch(np.array([number]), data.trie)
        (context,), options = cached.contexts, PrefixContainment(nodes=most, margin=0.5)
        prefixes = {tuple(path_of(data, int(leaf))[:t]) for leaf in cached.leaves[0] for t in (1, 2)}

        def score(codes, context=context) -> float:
            steps = (plain_distribution(draft, data, context, codes[:t]) for t in range(len(codes)))
            return sum(float(d[data.encoder.code_ids[c]]) for d, c in zip(steps, codes, strict=True))

        def divergence(codes, context=context) -> float:
            rows = data.encoder.catalog.codes.tolist()
            valid = sorted({row[len(codes)] for row in rows if tuple(row[: len(codes)]) == codes})
            p, q = (
                torch.log_softmax(plain_distribution(m, data, context, codes)[data.encoder.code_ids[valid]], -1)
                for m in (data.target, draft)
            )
            return float((p.exp() * (p - q)).sum())

        drafted_nodes, bound = {()}, {}
        for level, size in ((1, most[0]), (2, most[1])):
            pool = {tuple(row[:level]) for row in data.encoder.catalog.codes.tolist()}
            pool = {codes for codes in pool if codes[:-1] in drafted_nodes}
            ranked = sorted(pool, key=score, reverse=True)
            own = {codes for codes in prefixes if len(codes) == level}
            others = [codes for codes in ranked[: size + 1] if codes not in own]
            place = size - len(own)
            bound[level] = score(others[place]) if place < len(others) else -math.inf
            drafted_nodes = set(ranked[:size])
        expected = 0.0
        for codes in prefixes:
            missing = 1 / (1 + math.exp(min(700, score(codes) - bound[len(codes)] - 0.5)))
            along = sum(divergence(codes[:t]) for t in range(len(codes))) / len(codes)
            expected += (0.1 + missing) * along / len(prefixes)
        loss, _ = containment(draft, data.trie, *data.prompts(cached.contexts), cached, options)
        assert loss.requires_grad
        assert float(loss.detach()) == pytest.approx(expected, rel=5e-3)


@torch.no_grad()
def test_with_room_for_every_node_all_are_contained(data):
    draft = CodeModel(make_model(build_tokenizer(data.encoder.catalog.code_tokens), seed=5), data.encoder.code_ids)
    cached = data.cache.batch(np.arange(6), data.trie)
    prompts = data.prompts(cached.contexts)
    loss, contained = containment(draft, data.trie, *prompts, cached, PrefixContainment(nodes=[4, 12]))
    tight, not_all = containment(draft, data.trie, *prompts, cached, PrefixContainment(nodes=[2, 4]))
    assert float(contained) == 1 > float(not_all)
    assert float(tight) > 2 * float(loss) > 0
