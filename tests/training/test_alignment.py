import numpy as np
import pytest
import torch

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.settings import AlignDraft, Architecture
from atspeed_core.training import alignment
from atspeed_core.training.alignment import AlignmentData, align, aligned_batch
from atspeed_core.training.topk_cache import TopkCache, choose_contexts, write_index, write_shards
from tests.tiny_models import make_catalog, make_model, make_recommender

CODES = [(a, b, c) for a in range(4) for b in range(3) for c in range(2)]
SEQUENCES = [[str((7 * u + i * i) % 24) for i in range(4 + u)] for u in range(9)]
SHAPE = Architecture(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    recommender = make_recommender(make_catalog(CODES), tmp_path_factory.mktemp("models"))
    folder = tmp_path_factory.mktemp("cache")
    contexts = choose_contexts([len(s) for s in SEQUENCES], 3, seed=0)
    histories = [SEQUENCES[c.user][: c.position] for c in contexts]
    models = (recommender.target, recommender.encoder, recommender.trie)
    index = write_shards(folder, contexts, histories, *models, top_k=4, batch_size=8, contexts_per_shard=16)
    write_index(folder, index)
    sequences = [recommender.catalog.positions_of(s) for s in SEQUENCES]
    return AlignmentData(sequences, TopkCache(folder), recommender.encoder, recommender.trie, recommender.target)


def settings(**changes) -> AlignDraft:
    return AlignDraft(architecture=SHAPE, **({"num_updates": 10, "batch_size": 4, "learning_rate": 1e-2} | changes))


def new_draft(data) -> CodeModel:
    tokenizer = build_tokenizer(data.encoder.catalog.code_tokens)
    return CodeModel(make_model(tokenizer, seed=5), data.encoder.code_ids)


def trained(data, method, **changes):
    draft = new_draft(data)
    curves = align(draft, data, method, settings(**changes))
    return draft.model.state_dict(), curves


@pytest.mark.parametrize("own_beams", [False, True])
def test_distributions_are_those_of_the_models_along_the_same_prefixes(data, own_beams):
    draft = new_draft(data)
    cached = data.cache.batch(np.arange(4), data.trie)
    aligned = aligned_batch(draft, data, cached, source="own_beams" if own_beams else "top_k")
    draft.model.eval()
    if own_beams:
        with torch.no_grad():
            leaves = [data.sequences[c.user][: c.position] for c in cached.contexts]
            tree = ScoredTree(draft, data.trie, *data.encoder.encode_positions(leaves))
            found = alignment.beam_search(tree, 4).leaves
        assert not torch.equal(found, cached.leaves)
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
    torch.testing.assert_close(from_cache.log_p_kth, from_own.log_p_kth)


def test_training_brings_the_draft_nearer_to_the_target(data):
    for method in ("atspeed_s", "atspeed_r"):
        _, curves = trained(data, method, num_updates=60, beta=0.0, alpha=1.0)
        losses = [value for _, name, value in curves.rows if name == "alignment_loss"]
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_methods_make_the_same_number_of_updates_and_differ_in_result(data):
    states = {}
    for method in ("sft", "atspeed_s", "atspeed_r"):
        states[method], curves = trained(data, method)
        assert max(step for step, *_ in curves.rows) == 9
    names = list(states["sft"])
    assert any(not torch.equal(states["sft"][n], states["atspeed_s"][n]) for n in names)
    assert any(not torch.equal(states["atspeed_r"][n], states["atspeed_s"][n]) for n in names)


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


def test_a_stopped_run_goes_on_and_ends_with_the_same_weights(data, tmp_path, monkeypatch):
    whole = new_draft(data)
    curves = align(whole, data, "atspeed_s", settings())
    update = alignment._update

    def stop_at_seven(draft, optimizer, loss, settings, step):
        if step == 7:
            raise Stopped
        update(draft, optimizer, loss, settings, step)

    checkpoint = tmp_path / "state.pt"
    monkeypatch.setattr(alignment, "_update", stop_at_seven)
    with pytest.raises(Stopped):
        align(new_draft(data), data, "atspeed_s", settings(), checkpoint=checkpoint)
    monkeypatch.setattr(alignment, "_update", update)
    resumed = new_draft(data)
    again = align(resumed, data, "atspeed_s", settings(), checkpoint=checkpoint)
    assert again.rows == curves.rows
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)


@pytest.mark.parametrize(("share", "turns"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_own_beams_take_their_share_of_turns(share, turns):
    assert sum(alignment._turn_of_own_beams(step, share) for step in range(20)) == turns
