"""The gate on made-up evidence."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed_core.errors import UserError
from atspeed_core.verdict import Evidence, Thresholds, judge, probability_of_loss

THRESHOLDS = Thresholds(
    k=10, tolerance=0.01, risk=0.25, min_accepted_steps=1.0, min_walltime_speedup=0.5, max_latency_ratio=1.5
)
DEVICE = {"type": "cpu", "name": "EPYC", "cores": 2, "threads": 2, "dtype": "float32", "torch": "2.13"}
USERS = 40
HALF = np.tile([0.0, 1.0], USERS // 2)  # of the users have a hit
metrics = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def evidence(version: str = "2", recall: Any = None, **changes: Any) -> Evidence:
    values = HALF if recall is None else np.asarray(recall, dtype=np.float64)
    given = {
        "date": "2026-01-02",
        "method": "atspeed_s",
        "users": tuple(f"u{n}" for n in range(len(values))),
        "metrics": {"recall": values, "ndcg": values},
        "identical_lists": {1: 1.0, 10: 1.0},
        "accepted_steps": 1.9,
        "walltime_speedup": 0.6,
        "latency_ms_p95": 20.0,
        "device": DEVICE,
    }
    return Evidence(version, **{**given, **changes})


def champion(recall: Any = None, **changes: Any) -> Evidence:
    return replace(evidence("1", recall, date="2026-01-01", identical_lists={}), **changes)


def test_an_equal_challenger_is_accepted_with_sentences_and_numbers() -> None:
    verdict = judge(evidence(), champion(), THRESHOLDS)
    assert (verdict.accepted, verdict.reasons) == (True, ())
    assert list(verdict.facts) == [
        "identical_lists@1",
        "identical_lists@10",
        "accepted_steps@10",
        "walltime_speedup@10",
        "date",
        "recall@10",
        "ndcg@10",
        "latency_ms_p95@10",
    ]
    assert verdict.facts["recall@10"] == (
        "recall at K = 10 is 0.5000, champion 1 has 0.5000: a loss above 0.0100 has probability 0.000, at most 0.250 "
        "is allowed"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"identical_lists": {1: 1.0, 10: 0.999}}, "strict lists of K = 10: 0.9990 of the users"),
        ({"identical_lists": {1: 0.5, 10: 1.0}}, "strict lists of K = 1: 0.5000 of the users"),
        ({"identical_lists": {1: 1.0}}, "strict lists of K = 10: missing of the users"),
        ({"identical_lists": {1: None, 10: 1.0}}, "strict lists of K = 1: missing"),
        ({"accepted_steps": 0.99}, "AS at K = 10 is 0.990; the floor is 1.000"),
        ({"accepted_steps": float("nan")}, "AS at K = 10 is missing"),
        ({"walltime_speedup": 0.49}, "WS at K = 10 is 0.490; the floor is 0.500"),
        ({"walltime_speedup": None}, "WS at K = 10 is missing"),
        ({"date": "2025-12-31"}, "up to 2025-12-31, champion 1 on those up to 2026-01-01; an older model"),
        (
            {"metrics": {"recall": np.zeros(USERS), "ndcg": HALF}},
            "recall at K = 10 is 0.0000, champion 1 has 0.5000: .* probability 1.000",
        ),
        ({"metrics": {"recall": HALF, "ndcg": np.zeros(USERS)}}, "ndcg at K = 10 is 0.0000"),
        ({"metrics": {"recall": HALF, "ndcg": np.full(USERS, np.nan)}}, "ndcg at K = 10 is missing"),
        ({"metrics": {"recall": HALF}}, "ndcg at K = 10 is missing"),
        ({"latency_ms_p95": 31.0}, "p95 latency at K = 10 is 31.0 ms, champion 1 has 20.0 ms: 1.55 times"),
        ({"latency_ms_p95": None}, "p95 latency at K = 10 is missing ms"),
        ({"device": {}}, "the challenger's device is not recorded"),
    ],
)
def test_each_shortcoming_alone_is_a_refusal_with_its_numbers(changes: dict[str, Any], reason: str) -> None:
    verdict = judge(replace(evidence(), **changes), champion(), THRESHOLDS)
    assert not verdict.accepted
    (sentence,) = verdict.reasons
    assert re.search(reason, sentence), sentence


def test_every_reason_is_named() -> None:
    bad = evidence(recall=np.zeros(USERS), accepted_steps=0.0, date="2020-01-01", latency_ms_p95=900.0)
    assert len(judge(bad, champion(), THRESHOLDS).reasons) == 5


def test_missing_figures_of_the_champion_are_a_refusal() -> None:
    for changes in ({"recall": np.full(USERS, np.nan)}, {"latency_ms_p95": float("nan")}):
        assert not judge(evidence(), champion(**changes), THRESHOLDS).accepted
    absent = champion(users=(), metrics={})
    assert len(judge(evidence(), absent, THRESHOLDS).reasons) == 2


@pytest.mark.parametrize("fact", ["type", "name", "cores", "threads", "dtype"])
def test_times_of_another_device_are_not_compared(fact: str) -> None:
    slow = evidence(latency_ms_p95=500.0, device={**DEVICE, fact: "other"})
    verdict = judge(slow, champion(), THRESHOLDS)
    assert verdict.accepted
    assert verdict.facts["latency_ms_p95@10"] == f"not compared: another device ({fact} differ)"


def test_another_version_of_torch_is_the_same_device() -> None:
    slow = evidence(latency_ms_p95=500.0, device={**DEVICE, "torch": "3"})
    assert not judge(slow, champion(), THRESHOLDS).accepted


def test_without_a_champion_floors_and_identity_decide() -> None:
    assert judge(evidence(recall=np.zeros(USERS)), None, THRESHOLDS).accepted
    assert not judge(evidence(accepted_steps=0.5), None, THRESHOLDS).accepted
    assert not judge(evidence(identical_lists={10: 0.9}), None, THRESHOLDS).accepted
    assert not judge(evidence(recall=np.full(USERS, np.nan)), None, THRESHOLDS).accepted
    assert not judge(evidence(users=(), recall=[]), None, THRESHOLDS).accepted


def test_the_champion_itself_is_accepted_whatever_its_figures() -> None:
    same = evidence("1", accepted_steps=0.0)
    verdict = judge(same, champion(), THRESHOLDS)
    assert (verdict.accepted, verdict.facts) == (True, {"champion": "version 1 is the champion already"})


def test_the_same_day_may_be_run_again() -> None:
    assert judge(evidence(date="2026-01-01"), champion(), THRESHOLDS).accepted


@pytest.mark.parametrize("users", [("other", "u1"), ("u0",), ("u0", "u0")])
def test_different_users_are_a_mistake(users: tuple[str, ...]) -> None:
    ours = evidence(recall=[0.0] * len(users), users=users)
    with pytest.raises(UserError, match="different users"):
        judge(ours, champion([0.0, 0.0]), THRESHOLDS)


def test_risk_is_what_decides_on_a_small_loss() -> None:
    """One user of forty lost: a mean loss of 0.025, which resampling finds above 0.01 in 64 % of the cases."""
    lost = np.tile([0.0, 1.0], USERS // 2)
    lost[1] = 0.0
    bold, careful = replace(THRESHOLDS, risk=0.7), replace(THRESHOLDS, risk=0.5)
    assert judge(evidence(recall=lost), champion(), bold).accepted
    assert not judge(evidence(recall=lost), champion(), careful).accepted
    assert judge(evidence(recall=lost), champion(), replace(careful, tolerance=0.2)).accepted


def test_the_bootstrap_is_that_of_the_users_sampled_one_by_one() -> None:
    rng = np.random.default_rng(5)
    differences = rng.choice([-1.0, 0.0, 0.5], size=60, p=[0.2, 0.5, 0.3])
    drawn = rng.choice(differences, size=(20_000, 60)).mean(axis=1)
    assert probability_of_loss(differences, 0.03) == pytest.approx((drawn < -0.03).mean(), abs=0.03)


@given(metrics)
@settings(max_examples=30, deadline=None)
def test_equal_figures_are_accepted_even_without_tolerance(recall: list[float]) -> None:
    strictest = replace(THRESHOLDS, tolerance=0.0, risk=0.0)
    assert judge(evidence(recall=recall), champion(recall), strictest).accepted


@given(metrics, st.floats(0.02, 1), st.floats(0, 0.99))
@settings(max_examples=30, deadline=None)
def test_a_challenger_that_is_worse_for_everyone_is_refused(recall: list[float], loss: float, risk: float) -> None:
    worse = np.asarray(recall) - loss
    assert not judge(evidence(recall=worse), champion(recall), replace(THRESHOLDS, risk=risk)).accepted


@given(metrics, st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_a_challenger_that_is_better_for_everyone_is_accepted(recall: list[float], gain: float) -> None:
    better = np.asarray(recall) + gain
    assert judge(evidence(recall=better), champion(recall), replace(THRESHOLDS, risk=0.0)).accepted


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30), st.randoms())
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_users_does_not_matter(pairs: list[tuple[float, float]], random: Any) -> None:
    ours, theirs = (np.array(column) for column in zip(*pairs, strict=True))
    order = list(range(len(pairs)))
    random.shuffle(order)
    shuffled = evidence(recall=ours[order], users=tuple(f"u{n}" for n in order))
    verdicts = [judge(given, champion(theirs), THRESHOLDS) for given in (evidence(recall=ours), shuffled)]
    assert verdicts[0].accepted == verdicts[1].accepted


@given(st.integers(-8, 8).map(lambda n: n / 4), st.floats(0, 0.3), st.floats(0, 0.3))
@settings(max_examples=30, deadline=None)
def test_a_loss_is_never_more_probable_with_more_tolerance(shift: float, small: float, more: float) -> None:
    differences = np.array([-1.0, 0.0, 0.0, 0.0, 1.0, shift])
    assert probability_of_loss(differences, small + more) <= probability_of_loss(differences, small)
