"""The gate's verdict on a challenger: a pure function of the evaluations of challenger and champion."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from atspeed_core.errors import UserError
from atspeed_core.metrics import METRICS

FloatArray = NDArray[np.float64]

SAME_DEVICE = ("type", "name", "cores", "threads", "dtype")  # times are compared only where these facts agree
SAMPLES = 2000
SEED = 0
SAMPLES_AT_ONCE = 100  # bounds the memory to this many times the number of distinct differences
ROUNDING = 1e-12  # a loss of exactly the tolerance does not exceed it


@dataclass(frozen=True)
class Evidence:
    """The evaluation of a recommender on one night's test users: strict verification, lists of the judged K.

    Attributes:
        version: of the registered recommender.
        date: the last day whose interactions it was trained on, YYYY-MM-DD.
        method: of its draft.
        users: user ids.
        metrics: name of a judged metric -> [users] float64; without those that were not measured.
        identical_lists: K -> share of users whose list equals the reference, item by item; empty where it was not
            measured.
        accepted_steps: AS; None where it was not measured, likewise below.
        walltime_speedup: WS.
        latency_ms_p95: 95th percentile of the time of one request, in milliseconds.
        device: machine and number format, see `device.device_facts`.
    """

    version: str
    date: str
    method: str
    users: tuple[str, ...]
    metrics: Mapping[str, FloatArray]
    identical_lists: Mapping[int, float | None] = field(default_factory=dict)
    accepted_steps: float | None = None
    walltime_speedup: float | None = None
    latency_ms_p95: float | None = None
    device: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Thresholds:
    """The conditions that a challenger has to meet.

    Attributes:
        k: list length that is judged.
        tolerance: by how much a judged metric may be lower than the champion's, absolute.
        risk: largest accepted probability of a loss above `tolerance`.
        min_accepted_steps: smallest AS.
        min_walltime_speedup: smallest WS.
        max_latency_ratio: largest p95 latency in relation to the champion's; applies to the same device only.
    """

    k: int
    tolerance: float
    risk: float
    min_accepted_steps: float
    min_walltime_speedup: float
    max_latency_ratio: float


@dataclass(frozen=True)
class Finding:
    """The result of one check, in one sentence with its numbers."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The gate's decision.

    Attributes:
        accepted: whether the challenger may become champion.
        reasons: why it may not, each a sentence with its numbers; empty if it may.
        facts: name of each check -> sentence, in order.
    """

    accepted: bool
    reasons: tuple[str, ...]
    facts: dict[str, str]


def judge(challenger: Evidence, champion: Evidence | None, thresholds: Thresholds) -> Verdict:
    """Judge `challenger`; without a champion only its own figures are judged.

    A figure that is missing or not a number leads to a refusal.

    Raises:
        UserError: they were evaluated on different users.
    """
    if champion and champion.version == challenger.version:
        return _verdict([Finding("champion", True, f"version {champion.version} is the champion already")])
    findings = [*_identity(challenger, thresholds), *_floors(challenger, thresholds)]
    if champion is None:
        return _verdict([*findings, *_own_quality(challenger, thresholds)])
    findings += [_age(challenger, champion), *_quality(challenger, champion, thresholds)]
    return _verdict([*findings, _latency(challenger, champion, thresholds)])


def probability_of_loss(differences: FloatArray, tolerance: float) -> float:
    """Share of bootstrap samples of users whose mean difference lies below -`tolerance`.

    Users with the same difference are interchangeable, so the number of times that each value occurs is sampled
    and not the users one by one: the same distribution, and the order of the users cannot matter.

    Args:
        differences: [users] challenger - champion, at least one.
        tolerance: the accepted loss.
    """
    values, counts = np.unique(differences, return_counts=True)
    rng = np.random.default_rng(SEED)
    num_users, worse = len(differences), 0
    for _ in range(SAMPLES // SAMPLES_AT_ONCE):
        resampled = rng.multinomial(num_users, counts / num_users, size=SAMPLES_AT_ONCE)
        worse += int((resampled @ values / num_users < -tolerance - ROUNDING).sum())
    return worse / SAMPLES


def _verdict(findings: list[Finding]) -> Verdict:
    reasons = tuple(finding.sentence for finding in findings if not finding.passed)
    return Verdict(not reasons, reasons, {finding.name: finding.sentence for finding in findings})


def _identity(challenger: Evidence, thresholds: Thresholds) -> list[Finding]:
    shares = {thresholds.k: None, **challenger.identical_lists}
    return [
        Finding(
            f"identical_lists@{k}",
            share == 1.0,
            f"strict lists of K = {k}: {_number(share)} of the users get the reference's list; it must be 1.0000",
        )
        for k, share in sorted(shares.items())
    ]


def _floors(challenger: Evidence, thresholds: Thresholds) -> list[Finding]:
    floors = {
        "accepted_steps": ("AS", challenger.accepted_steps, thresholds.min_accepted_steps),
        "walltime_speedup": ("WS", challenger.walltime_speedup, thresholds.min_walltime_speedup),
    }
    return [
        Finding(
            f"{name}@{thresholds.k}",
            _is_number(value) and value >= floor,
            f"{short} at K = {thresholds.k} is {_number(value, 3)}; the floor is {floor:.3f}",
        )
        for name, (short, value, floor) in floors.items()
    ]


def _own_quality(challenger: Evidence, thresholds: Thresholds) -> list[Finding]:
    return [
        Finding(
            f"{name}@{thresholds.k}",
            _is_complete(values, challenger),
            f"{name} at K = {thresholds.k} is {_mean(values)} over {len(values)} users; no champion to compare with",
        )
        for name, values in _judged(challenger).items()
    ]


def _age(challenger: Evidence, champion: Evidence) -> Finding:
    return Finding(
        "date",
        challenger.date >= champion.date,
        f"the challenger was trained on the days up to {challenger.date}, champion {champion.version} on those up to "
        f"{champion.date}; an older model does not replace a newer one",
    )


def _quality(challenger: Evidence, champion: Evidence, thresholds: Thresholds) -> list[Finding]:
    places = _places(challenger.users, champion.users) if champion.users else np.empty(0, dtype=np.int64)
    findings = []
    for (name, ours), theirs in zip(_judged(challenger).items(), _judged(champion).values(), strict=True):
        complete = _is_complete(ours, challenger) and _is_complete(theirs, champion)
        risk = probability_of_loss(ours - theirs[places], thresholds.tolerance) if complete else math.nan
        sentence = (
            f"{name} at K = {thresholds.k} is {_mean(ours)}, champion {champion.version} has {_mean(theirs)}: a loss "
            f"above {thresholds.tolerance:.4f} has probability {_number(risk, 3)}, at most {thresholds.risk:.3f} is "
            "allowed"
        )
        findings.append(Finding(f"{name}@{thresholds.k}", risk <= thresholds.risk, sentence))
    return findings


def _latency(challenger: Evidence, champion: Evidence, thresholds: Thresholds) -> Finding:
    differ = [name for name in SAME_DEVICE if challenger.device.get(name) != champion.device.get(name)]
    unknown = [name for name in SAME_DEVICE if challenger.device.get(name) is None]
    name = f"latency_ms_p95@{thresholds.k}"
    if unknown:
        return Finding(name, False, f"the challenger's device is not recorded ({', '.join(unknown)} missing)")
    if differ:
        return Finding(name, True, f"not compared: another device ({', '.join(differ)} differ)")
    ours, theirs = challenger.latency_ms_p95, champion.latency_ms_p95
    ratio = ours / theirs if _is_number(ours) and _is_number(theirs) and theirs > 0 else math.nan
    sentence = (
        f"p95 latency at K = {thresholds.k} is {_number(ours, 1)} ms, champion {champion.version} has "
        f"{_number(theirs, 1)} ms: {_number(ratio, 2)} times, at most {thresholds.max_latency_ratio:.2f} is allowed"
    )
    return Finding(name, ratio <= thresholds.max_latency_ratio, sentence)


def _judged(evidence: Evidence) -> dict[str, FloatArray]:
    """Values of every judged metric, empty where it was not measured."""
    judged = (name for name, metric in METRICS.all().items() if metric.judged)
    return {name: evidence.metrics.get(name, np.empty(0)) for name in judged}


def _places(users: tuple[str, ...], others: tuple[str, ...]) -> NDArray[np.int64]:
    """Place of each of `users` in `others`."""
    place = {user: number for number, user in enumerate(others)}
    if len(place) != len(others) or len(set(users)) != len(users) or set(users) != set(others):
        raise UserError(
            f"challenger ({len(users)} users) and champion ({len(others)}) were evaluated on different users; "
            "run evaluate_champion of that night again"
        )
    return np.array([place[user] for user in users], dtype=np.int64)


def _is_complete(values: FloatArray, evidence: Evidence) -> bool:
    return 0 < len(values) == len(evidence.users) and bool(np.isfinite(values).all())


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _mean(values: FloatArray) -> str:
    return _number(float(values.mean()) if len(values) else None)


def _number(value: float | None, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if _is_number(value) else "missing"
