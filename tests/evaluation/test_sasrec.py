"""SASRec: what its model may see, what its loss is, and that it learns what follows what."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from atspeed_core.evaluation.baselines import TrainingData
from atspeed_core.evaluation.sasrec import (
    NextItemModel,
    SasRecData,
    TrainedSasRec,
    next_item_loss,
    recommend_next,
    train_sasrec,
)
from atspeed_core.settings import SasRec

ITEMS = [str(item) for item in range(12)]
CYCLES = [[ITEMS[(start + step) % 12] for step in range(6)] for start in range(12)] * 4
SETTINGS = SasRec(hidden_size=16, dropout=0.0, max_updates=60)
CPU = torch.device("cpu")


def make_model(max_history: int = 4) -> NextItemModel:
    torch.manual_seed(0)
    return NextItemModel(SETTINGS, len(ITEMS), max_history=max_history).eval()


def make_data(known: list[list[str]], targets: list[list[str]]) -> SasRecData:
    return SasRecData.build(TrainingData.from_sequences(ITEMS, CYCLES), CYCLES, known, targets)


def trained(known: list[list[str]], targets: list[list[str]], *, seed: int = 0) -> TrainedSasRec:
    return train_sasrec(make_data(known, targets), SETTINGS, max_history=4, seed=seed, device=CPU)


@pytest.fixture(scope="module")
def cyclic() -> TrainedSasRec:
    """Every item is followed by the next number."""
    return trained([cycle[:3] for cycle in CYCLES[:12]], [[cycle[3]] for cycle in CYCLES[:12]])


def test_no_state_sees_a_later_item() -> None:
    model = make_model()
    before, after = (model(torch.tensor([[3, 5, 7, last]])) for last in (1, 2))
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_padding_changes_nothing() -> None:
    model = make_model()
    alone, beside = model(torch.tensor([[3, 5]])), model(torch.tensor([[-1, -1, 3, 5], [1, 2, 3, 5]]))
    torch.testing.assert_close(beside[0, 2:], alone[0])
    assert torch.isfinite(beside).all()


def test_the_loss_is_the_cross_entropy_of_every_item_but_the_first() -> None:
    model = make_model()
    windows = [np.array([3, 5, 7]), np.array([1, 2])]
    expected = []
    for window in windows:
        # Places count from the end, so a prefix is read as the front of its window.
        log_probs = torch.log_softmax(model(torch.tensor(window[None, :-1]))[0] @ model.items.weight.T, dim=-1)
        expected += [-log_probs[place, following] for place, (_, following) in enumerate(pairwise(window.tolist()))]
    torch.testing.assert_close(next_item_loss(model, windows), torch.stack(expected).mean())


def test_it_learns_what_follows_what(cyclic: TrainedSasRec) -> None:
    data = make_data([], []).training
    assert recommend_next(cyclic, data, CYCLES[:12], 1) == [[ITEMS[(start + 6) % 12]] for start in range(12)]
    assert cyclic.ndcg == 1.0


def test_it_sees_the_most_recent_items_alone(cyclic: TrainedSasRec) -> None:
    data = make_data([], []).training
    long = [["9", "9", "9", *CYCLES[0][:4]], ["unknown", *CYCLES[0][:4]]]
    including = replace(cyclic, chosen=replace(cyclic.chosen, exclude_seen=False))
    assert recommend_next(including, data, long, 5) == recommend_next(including, data, [CYCLES[0][:4]], 5) * 2


def test_an_item_that_nobody_had_is_no_history(cyclic: TrainedSasRec) -> None:
    """It is in the catalog, and a user of the test part may have it; its embedding was only ever pushed away."""
    data = TrainingData.from_sequences(ITEMS, [[item for item in cycle if item != "4"] for cycle in CYCLES])
    including = replace(cyclic, chosen=replace(cyclic.chosen, exclude_seen=False))
    for history, same in ((["1", "2", "3", "4"], ["1", "2", "3"]), (["4"], [])):
        assert recommend_next(including, data, [history], 3) == recommend_next(including, data, [same], 3)


def test_without_a_known_item_popularity_ranks(cyclic: TrainedSasRec) -> None:
    data = TrainingData.from_sequences(ITEMS, [*CYCLES, ["7"], ["7"], ["2"]])
    assert recommend_next(cyclic, data, [[], ["unknown"]], 2) == [["7", "2"]] * 2


@pytest.mark.parametrize(("again", "exclude_seen"), [(True, False), (False, True)])
def test_validation_users_decide_on_seen_items(again: bool, exclude_seen: bool) -> None:
    """In the data an item follows itself; of the held-out items either all or none were seen."""
    items = ["a", "b", "c", "d"]
    sequences = [[item] * 6 for item in items] * 4
    targets = [[item if again else other] for item, other in zip(items, "bcda", strict=True)]
    data = SasRecData.build(TrainingData.from_sequences(items, sequences), sequences, [[i] for i in items], targets)
    assert train_sasrec(data, SETTINGS, max_history=4, seed=0, device=CPU).chosen.exclude_seen == exclude_seen


def test_what_is_kept_is_the_best_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.1, 0.0, 0.5, 0.2, 0.3, 0.0, *[0.0] * 100])  # of seen items out and in, at each check
    monkeypatch.setattr("atspeed_core.evaluation.sasrec.mean_ndcg", lambda *_: next(values))
    best = trained([["1"]], [["2"]])
    assert (best.ndcg, best.chosen.updates, best.chosen.exclude_seen) == (0.5, 3, True)
    assert len(list(values)) == 106 - 2 * (2 + 5)  # the checks up to the best one and five more, two values each


def test_the_seed_decides_alone() -> None:
    known, targets = [cycle[:2] for cycle in CYCLES[:4]], [["5"]] * 4
    torch.manual_seed(1)
    first = trained(known, targets, seed=3)
    torch.manual_seed(2)
    again, other = trained(known, targets, seed=3), trained(known, targets, seed=4)
    torch.testing.assert_close(first.model.items.weight, again.model.items.weight, rtol=0, atol=0)
    assert not torch.equal(first.model.items.weight, other.model.items.weight)


def test_nothing_to_learn_is_no_fault() -> None:
    data = SasRecData.build(TrainingData.from_sequences(ITEMS, [["1"], ["2"]]), [["1"], ["2"]], [["1"]], [["2"]])
    assert train_sasrec(data, SETTINGS, max_history=4, seed=0, device=CPU).chosen.updates == 0
