"""Training of the one-shot draft: it learns what the target says, and a stopped training ends the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atspeed_core.alignment import align, alignment_terms
from atspeed_core.methods import METHODS
from atspeed_core.models.one_shot_draft import OneShotDraft
from atspeed_core.training import loop
from atspeed_core.training.distillation import distillation
from tests.complete_params import AlignDraft, OneShot
from tests.tiny_alignment import SHAPE, make_alignment_data

METHOD = METHODS.get("one_shot")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_alignment_data(tmp_path_factory.mktemp("alignment"))


def settings(num_updates: int) -> AlignDraft:
    plan = OneShot(hidden_size=16, num_updates=num_updates, batch_size=8, learning_rate=1e-2)
    return AlignDraft(architecture=SHAPE, one_shot=plan)


def new_draft(data, num_updates: int = 1) -> OneShotDraft:
    return OneShotDraft(settings(num_updates).one_shot, data.encoder.catalog, max_history=20, seed=0)


@torch.no_grad()
def test_a_draft_that_says_what_the_target_says_has_no_loss(data):
    cached, draft = data.cache.batch(np.arange(5), data.trie), new_draft(data)
    scores = draft(torch.arange(5).unsqueeze(1))
    assert float(distillation(draft, scores, cached, data.trie)) > 0.1
    children, own = data.trie.children(cached.nodes), torch.full_like(cached.log_p, -torch.inf)
    for depth in range(data.trie.num_levels):
        here = data.trie.depth_of(cached.nodes) == depth
        step = draft.next_log_probs(scores, torch.where(here.unsqueeze(-1), children, -1), depth)
        own = torch.where(here.unsqueeze(-1), step, own)
    assert float(distillation(draft, scores, replace(cached, log_p=own), data.trie)) == pytest.approx(0, abs=1e-5)


def test_training_teaches_the_target_s_distributions(data):
    draft, everything = new_draft(data), data.cache.batch(np.arange(len(data.cache)), data.trie)

    def loss() -> float:
        return float(alignment_terms(draft, data, METHOD, settings(150), everything, 0)["alignment_loss"])

    with torch.no_grad():
        before = loss()
        with torch.enable_grad():
            curves = align(draft, data, METHOD, settings(150))
        after = loss()
    assert after < 0.2 * before
    assert {name for _, name, _ in curves.rows} == {"loss", "alignment_loss"}


def test_a_stopped_training_ends_with_the_same_weights(data, tmp_path, monkeypatch):
    whole = new_draft(data)
    align(whole, data, METHOD, settings(10))

    class Killed(Exception):
        pass

    def killed_after(step, *_, **__):
        for number in step:
            if number == 7:
                raise Killed
            yield number

    draft = new_draft(data)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "track", killed_after)
        with pytest.raises(Killed):
            align(draft, data, METHOD, settings(10), checkpoint=tmp_path / "state.pt")
    resumed = new_draft(data)
    align(resumed, data, METHOD, settings(10), checkpoint=tmp_path / "state.pt")
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in whole.state_dict().items())
