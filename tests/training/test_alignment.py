from itertools import combinations

import numpy as np
import pytest
import torch

from atspeed_core.alignment import align, alignment_terms
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import beam_search
from atspeed_core.methods import METHODS
from atspeed_core.models.building import load_base_draft, save_model
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.training import alignment_batch, loop
from atspeed_core.training.alignment_batch import aligned_batch
from atspeed_core.training.prefix_trees import prefix_tree
from atspeed_core.training.topk_cache import Context, TopkCache
from tests.complete_params import AlignDraft
from tests.tiny_alignment import SEQUENCES, make_alignment_data, make_draft, make_settings
from tests.tiny_models import make_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_alignment_data(tmp_path_factory.mktemp("alignment"))


def test_a_base_model_learns_as_a_draft(data, tmp_path):
    """A tiny base model with the target's tokens, saved and loaded as one that a user names."""
    tokenizer = build_tokenizer(data.encoder.catalog.code_tokens)
    before = make_model(tokenizer, seed=5)
    save_model(tmp_path / "base", before, tokenizer, instruction="")
    draft = CodeModel(load_base_draft(str(tmp_path / "base"), tokenizer), data.encoder.code_ids)
    given = AlignDraft(base_model=str(tmp_path / "base"), num_updates=30, batch_size=4, learning_rate=1e-2)
    assert torch.equal(draft.model.lm_head.weight, before.lm_head.weight)
    losses = [value for _, name, value in align(draft, data, METHODS.get("atspeed_s"), given).rows if name == "loss"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_rollout_follows_the_whole_history(data):
    assert data.history(Context(1, len(SEQUENCES[1]), (7, 3))).tolist() == [*map(int, SEQUENCES[1]), 7, 3]
    ids, mask = data.prompts([Context(1, 2, (7, 3))])
    expected, _ = data.encoder.encode([[*SEQUENCES[1][:2], "7", "3"]])
    assert torch.equal(ids, expected)
    assert mask.all()


@pytest.mark.parametrize(
    ("method", "changes", "seen"),
    [("wordkd", {}, False), ("atspeed_r", {"sequences": "ground_truth"}, False), ("atspeed_s", {}, True)],
)
def test_what_aligns_on_items_that_came_next_sees_no_rollout(data, monkeypatch, method, changes, seen):
    batches, batch = [], TopkCache.batch
    monkeypatch.setattr(TopkCache, "batch", lambda *args: batches.append(batch(*args)) or batches[-1])
    align(make_draft(data), data, METHODS.get(method), make_settings(num_updates=20, **changes))
    contexts = {context for cached in batches for context in cached.contexts}
    assert any(not context.observed for context in contexts) == seen
    assert len([context for context in contexts if context.observed]) == data.cache.index.num_observed


def trained(data, method, **changes):
    draft = make_draft(data)
    curves = align(draft, data, METHODS.get(method), make_settings(**changes))
    return draft.model.state_dict(), curves


@pytest.mark.parametrize("own_beams", [False, True])
def test_distributions_are_those_of_the_models_along_the_same_prefixes(data, own_beams):
    draft = make_draft(data)
    cached = data.cache.batch(np.arange(4), data.trie)
    aligned = aligned_batch(draft, data, cached, source="own_beams" if own_beams else "top_k")
    draft.model.eval()
    if own_beams:
        with torch.no_grad():
            tree = ScoredTree(draft, data.trie, *data.prompts(cached.contexts))
            leaves = beam_search(tree, 4).leaves
        assert not torch.equal(leaves, cached.leaves)
    finite = aligned.log_p > -torch.inf
    assert torch.equal(finite, aligned.log_q > -torch.inf)
    sums = aligned.log_p.exp().sum(-1)
    torch.testing.assert_close(sums[aligned.weights > 0], torch.ones(int((aligned.weights > 0).sum())))
    assert aligned.log_q.requires_grad
    assert not aligned.log_p.requires_grad
    assert (aligned.log_p_kth <= 0).all()


def test_own_beams_and_cache_agree_where_draft_equals_target(data):
    cached = data.cache.batch(np.arange(6), data.trie)
    from_cache = aligned_batch(data.target, data, cached, source="top_k")
    from_own = aligned_batch(data.target, data, cached, source="own_beams")
    finite = from_cache.log_p > -torch.inf
    torch.testing.assert_close(from_cache.log_p[finite], from_own.log_p[finite], atol=0.03, rtol=0)
    torch.testing.assert_close(from_own.log_p[finite], from_own.log_q[finite].detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(from_cache.log_p_kth, from_own.log_p_kth, atol=0.03, rtol=0)


LANGUAGE_MODELS = ("wordkd", "tvdkd", "seqkd", "atspeed_s", "atspeed_r", "prefix_containment")


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_training_lowers_the_loss_of_the_method_on_all_its_contexts(data, name):
    method, options = (
        METHODS.get(name),
        make_settings(num_updates=60, beta=0.0, alpha=1.0, prefix_containment={"nodes": [2, 4]}),
    )
    size = len(data.cache) if method.learns_from_rollouts(options) else data.cache.index.num_observed
    everything = data.cache.batch(np.arange(size), data.trie)
    draft = make_draft(data)

    def loss() -> dict[str, float]:
        terms = alignment_terms(draft, data, method, options, everything, 0)
        return {name: float(value.detach()) for name, value in terms.items()}

    before = loss()
    curves = align(draft, data, method, options)
    after = loss()
    assert after["alignment_loss"] < 0.7 * before["alignment_loss"]
    assert name != "prefix_containment" or after["contained"] > before["contained"]
    assert {name for _, name, _ in curves.rows} == {"loss", "recommendation_loss", *before}


def test_methods_make_the_same_number_of_updates_and_differ_in_result(data):
    states = {}
    for method in ("sft", *LANGUAGE_MODELS):
        states[method], curves = trained(data, method, prefix_containment={"nodes": [2, 4]})
        assert max(step for step, *_ in curves.rows) == 9
    for one, other in combinations(states.values(), 2):
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_alpha_zero_is_sft(data):
    sft, _ = trained(data, "sft")
    zero, _ = trained(data, "atspeed_r", alpha=0.0)
    for name in sft:
        torch.testing.assert_close(sft[name], zero[name])


def test_beta_and_lambda_change_atspeed_s(data):
    base, _ = trained(data, "atspeed_s", beta=0.0, **{"lambda": 0.0})
    for change in ({"beta": 0.5, "lambda": 0.0}, {"beta": 0.0, "lambda": 0.5}):
        other, _ = trained(data, "atspeed_s", **change)
        assert any(not torch.equal(base[n], other[n]) for n in base)


class Stopped(Exception):
    pass


def test_a_stopped_run_resumes_and_ends_with_the_same_weights(data, tmp_path, monkeypatch):
    whole = make_draft(data)
    curves = align(whole, data, METHODS.get("atspeed_s"), make_settings())
    update, losses = loop._update, []

    def stop_at_seven(model, optimizer, loss, learning_rate):
        losses.append(loss)
        if len(losses) == 8:
            raise Stopped
        update(model, optimizer, loss, learning_rate)

    checkpoint = tmp_path / "state.pt"
    monkeypatch.setattr(loop, "_update", stop_at_seven)
    with pytest.raises(Stopped):
        align(make_draft(data), data, METHODS.get("atspeed_s"), make_settings(), checkpoint=checkpoint)
    monkeypatch.setattr(loop, "_update", update)
    resumed = make_draft(data)
    again = align(resumed, data, METHODS.get("atspeed_s"), make_settings(), checkpoint=checkpoint)
    assert again.rows == curves.rows
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)


@pytest.mark.parametrize(("share", "turns"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_own_beams_take_their_share_of_turns(share, turns):
    options = make_settings(**{"lambda": share})
    assert [METHODS.get("atspeed_s").sequences(options, step) for step in range(20)].count("own_beams") == turns


@torch.no_grad()
def plain_distribution(model, data, context, codes) -> torch.Tensor:
    """[vocabulary] log-probabilities of the token after a history and some codes, by an ordinary forward pass."""
    history = data.sequences[context.user][: context.position]
    (ids,), _ = data.encoder.encode_positions([history])
    row = torch.cat([ids, data.encoder.code_ids[torch.tensor(codes, dtype=torch.long)]])
    return torch.log_softmax(model.model(row[None]).logits[0, -1], -1)


def path_of(data, leaf) -> list[int]:
    """Codes of the identifier of a leaf."""
    nodes = data.trie.ancestors(torch.tensor(leaf)).flip(-1)
    return data.trie.codes(nodes).tolist()


@pytest.mark.parametrize("constrained", [True, False])
def test_the_ground_truth_path_is_that_of_the_next_item_and_both_models_speak_along_it(data, constrained):
    draft, cached = make_draft(data), data.cache.batch(np.arange(5), data.trie)
    aligned = aligned_batch(draft, data, cached, source="ground_truth", constrained=constrained)
    catalog = data.encoder.catalog
    assert aligned.weights.tolist() == [[pytest.approx(1 / 3)] * 3] * 5
    for row, context in enumerate(cached.contexts):
        item = data.sequences[context.user][context.position]
        codes = catalog.codes[item].tolist()
        for level in range(3):
            valid = sorted({r[level] for r in catalog.codes.tolist() if r[:level] == codes[:level]})
            for model, log_probs in ((draft, aligned.log_q), (data.target, aligned.log_p)):
                whole = plain_distribution(model, data, context, codes[:level])
                chosen = torch.log_softmax(whole[data.encoder.code_ids[valid]], -1) if constrained else whole
                torch.testing.assert_close(log_probs[row, level, : len(chosen)].detach(), chosen, atol=2e-4, rtol=1e-4)
                assert (log_probs[row, level, len(chosen) :] == -torch.inf).all()


@pytest.mark.parametrize("source", ["top_k", "ground_truth", "own_beams"])
@pytest.mark.parametrize("constrained", [True, False])
def test_the_kth_log_prob_is_that_of_the_target_s_kth_sequence(data, source, constrained):
    cached = data.cache.batch(np.arange(3), data.trie)
    aligned = aligned_batch(make_draft(data), data, cached, source=source, constrained=constrained)
    catalog = data.encoder.catalog
    for row, context in enumerate(cached.contexts):
        kth = path_of(data, int(cached.leaves[row, -1]))
        for level in range(3):
            whole = plain_distribution(data.target, data, context, kth[:level])
            valid = sorted({r[level] for r in catalog.codes.tolist() if r[:level] == kth[:level]})
            support = torch.logsumexp(whole[data.encoder.code_ids[valid]], -1) if constrained else 0.0
            expected = float(whole[data.encoder.code_ids[kth[level]]] - support)
            depths = data.trie.depth_of(tree_nodes(data, cached, source)[row])
            here = (depths == level) & (aligned.weights[row] > 0)
            assert aligned.log_p_kth[row][here].tolist() == pytest.approx([expected] * int(here.sum()), abs=0.02)


def tree_nodes(data, cached, source) -> torch.Tensor:
    if source == "top_k":
        return cached.nodes
    if source == "ground_truth":
        return prefix_tree(data.next_leaves(cached.contexts), data.trie).nodes
    prompts, mask = data.prompts(cached.contexts)
    return prefix_tree(alignment_batch._own_beams(make_draft(data), data.trie, prompts, mask, 4), data.trie).nodes


@pytest.mark.parametrize("constrained", [True, False])
def test_what_the_draft_says_of_the_target_s_sequences_level_by_level(data, constrained):
    draft, cached = make_draft(data), data.cache.batch(np.arange(3), data.trie)
    aligned = aligned_batch(draft, data, cached, source="top_k", constrained=constrained)
    catalog, taken = data.encoder.catalog, aligned.log_q_taken.detach()
    for row, context in enumerate(cached.contexts):
        for sequence in range(4):
            codes = path_of(data, int(cached.leaves[row, sequence]))
            for level in range(3):
                whole = plain_distribution(draft, data, context, codes[:level])
                valid = sorted({r[level] for r in catalog.codes.tolist() if r[:level] == codes[:level]})
                support = torch.logsumexp(whole[data.encoder.code_ids[valid]], -1) if constrained else 0.0
                expected = float(whole[data.encoder.code_ids[codes[level]]] - support)
                assert float(taken[row, sequence, level]) == pytest.approx(expected, abs=2e-4)
    assert aligned.exists.all()


def test_the_switches_change_what_they_say(data):
    base, _ = trained(data, "atspeed_r")
    for change in ({"constrained": False}, {"sequences": "ground_truth"}):
        other, _ = trained(data, "atspeed_r", **change)
        assert any(not torch.equal(base[n], other[n]) for n in base)
    tvdkd, _ = trained(data, "tvdkd")
    for name, value in trained(data, "atspeed_r", sequences="ground_truth")[0].items():
        assert torch.equal(value, tvdkd[name])  # AtSpeed-R without its top-K sequences is TVDKD


def test_sequences_come_from_where_the_method_takes_them():
    half, truth = make_settings(**{"lambda": 0.5}), make_settings(sequences="ground_truth", **{"lambda": 0.0})

    def along(name, options, step):
        return METHODS.get(name).sequences(options, step)

    assert [along("atspeed_s", half, step) for step in range(4)] == ["top_k", "own_beams"] * 2
    assert along("atspeed_r", half, 1) == "top_k"
    assert {along(name, truth, 0) for name in ("atspeed_s", "atspeed_r")} == {"ground_truth"}
    assert {along(name, half, 1) for name in ("wordkd", "tvdkd")} == {"ground_truth"}
    assert along("seqkd", truth, 1) == "top_k"
