"""Evaluation of the target: its reference lists, times and ranking, alongside recommenders without a language model."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch

from atspeed_core.data.sequences import Example
from atspeed_core.device import device_facts
from atspeed_core.evaluation.baselines import (
    TrainingData,
    recommend_popular,
    recommend_similar,
    tune_item_knn,
    tune_popularity,
)
from atspeed_core.evaluation.intervals import mean_figures
from atspeed_core.evaluation.lists import choose_users, collect_lists, in_batches, lists_digest
from atspeed_core.evaluation.reference_times import GENERATE, NONE, ORACLE, REPETITIONS, ReferenceTimes, time_references
from atspeed_core.evaluation.sasrec import SasRecData, recommend_next, train_sasrec
from atspeed_core.evaluation.speed import paired_ratios, speedup
from atspeed_core.metrics import Answers, measure_all, of_lists
from atspeed_core.progress import track
from atspeed_core.recommender import Recommendation, Recommender
from atspeed_core.settings import Evaluate
from atspeed_core.timing import latency

Json = dict[str, Any]
Lists = list[list[str]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """The processed data, as far as the evaluation of the target needs it.

    Attributes:
        train: training histories.
        valid: examples of the validation users.
        test: examples of the test users.
        max_history: items of a history that the target and SASRec see.
    """

    train: list[list[str]]
    valid: Sequence[Example]
    test: Sequence[Example]
    max_history: int


@dataclass(frozen=True)
class RankedTarget:
    """What was measured of a target without a clock.

    Attributes:
        reference: K -> lists of transformers' generate for all test users.
        chosen: settings of the recommenders that the target is compared with.
        per_user: one row per test user, recommender and K: user_id, recommender, k, recall, ndcg.
    """

    reference: dict[int, pd.DataFrame]
    chosen: dict[str, Json]
    per_user: pd.DataFrame


def rank_target(recommender: Recommender, parts: Parts, settings: Evaluate) -> RankedTarget:
    """Lists of the target, and of the recommenders that it is compared with, for all test users."""
    baselines, chosen = baseline_lists(parts, recommender.catalog.items, settings, recommender.device)
    reference = reference_lists(recommender, parts.test, settings)
    others = {name: dict.fromkeys(settings.ks, lists) for name, lists in baselines.items()}
    others |= sampled_lists(recommender, parts.test, settings)
    chosen |= {name: {"temperature": settings.temperature} for name in others.keys() - baselines.keys()}
    return RankedTarget(
        reference, {name: chosen[name] for name in others}, per_user_ranking(parts.test, reference, others)
    )


def time_target(recommender: Recommender, parts: Parts, settings: Evaluate) -> ReferenceTimes:
    """Times of what needs no draft; nothing else should run meanwhile."""
    timed = [parts.test[user] for user in choose_users(len(parts.test), settings.timing_users, settings.seed)]
    return time_references(recommender, {e.user: e.history for e in timed}, settings.ks)


def target_result(
    recommender: Recommender, ranked: RankedTarget, times: ReferenceTimes, parts: Parts, settings: Evaluate
) -> Json:
    """The content of results/target.json."""
    figures, speeds = ranking_figures(ranked.per_user, settings), reference_speeds(times, settings)
    return {
        "method": "target",
        "num_test_users": len(parts.test),
        "ks": settings.ks,
        "reference_sha256": lists_digest(ranked.reference),
        "device": device_facts(recommender.device, recommender.dtype),
        "timing": {"users": len(times.users), "repetitions": REPETITIONS, "load_average": times.load_average},
        "target": {
            "parameters": recommender.target_parameters,
            "exclude_history": settings.exclude_history,
            **{k: {**figures["target"][k], **speeds[k]} for k in speeds},
        },
        "baselines": {name: {"settings": chosen, **figures[name]} for name, chosen in ranked.chosen.items()},
    }


def baseline_lists(
    parts: Parts, items: list[str], settings: Evaluate, device: torch.device
) -> tuple[dict[str, Lists], dict[str, Json]]:
    """Lists of the recommenders without an LLM for the test users, and the settings chosen on validation users.

    Popularity and item-kNN may use all that is known of a user, wherever that serves them better than the most recent
    `max_history` items, which are all that the target and SASRec see. Counts and weights come from training alone.
    """
    data, k = TrainingData.from_sequences(items, parts.train), max(settings.ks)
    before_valid, held_out = [e.history for e in parts.valid], [e.targets for e in parts.valid]
    before_test = [e.history for e in parts.test]
    popular = tune_popularity(data, before_valid, held_out)
    similar = tune_item_knn(data, before_valid, held_out, max_history=parts.max_history)
    ordered = SasRecData.build(data, parts.train, before_valid, held_out)
    trained = train_sasrec(ordered, settings.sasrec, max_history=parts.max_history, seed=settings.seed, device=device)
    log.info("chosen on %d validation users: %s, %s, %s", len(before_valid), popular, similar, trained.chosen)
    lists = {
        "popularity": recommend_popular(data, popular, before_test, k),
        "item_knn": recommend_similar(data, similar, before_test, k),
        "sasrec": recommend_next(trained, data, before_test, k),
    }
    return lists, {"popularity": asdict(popular), "item_knn": asdict(similar), "sasrec": asdict(trained.chosen)}


def reference_lists(
    recommender: Recommender, examples: Sequence[Example], settings: Evaluate
) -> dict[int, pd.DataFrame]:
    """K -> lists of transformers' generate for all test users, as each request alone would get them."""
    by_length = sorted(range(len(examples)), key=lambda user: len(examples[user].history))  # little padding
    batches = in_batches([examples[user].history for user in by_length], settings.batch_size)

    def lists_of(k: int) -> pd.DataFrame:
        progress = track(batches, f"reference lists, K = {k}")
        lists = collect_lists(lambda histories, _: generated(recommender, histories, k), progress)
        return lists.set_axis(by_length).sort_index()

    return {k: lists_of(k) for k in settings.ks}


def generated(recommender: Recommender, histories: list[list[str]], k: int) -> Recommendation:
    """The lists of generate for a batch, as it gives them to each request alone.

    A batch rounds differently from a single request, and so may order differently what lies within rounding: some
    lists in ten thousand. Our own beam search, which breaks ties as generate does for one request, shows which.
    """
    lists = recommender.generate(histories, k, prompt_once=True)
    ours = recommender.recommend(histories, k, verification=NONE)
    for number, history in enumerate(histories):
        if lists.items[number] != ours.items[number]:
            alone = recommender.generate([history], k)
            lists.items[number], lists.scores[number] = alone.items[0], alone.scores[0]
    return lists


def sampled_lists(
    recommender: Recommender, examples: Sequence[Example], settings: Evaluate
) -> dict[str, dict[int, Lists]]:
    """Lists sampled from the target: without replacement from its distribution over items, and as published; by K.

    The first k of a list sampled without replacement are such a list of k items, so the longest lists serve every K.
    The published scheme keeps K beams, so each K has lists of its own.
    """
    batches = in_batches([example.history for example in examples], settings.batch_size)

    def exactly(histories: list[list[str]], first: int) -> Recommendation:
        return recommender.recommend(
            histories, max(settings.ks), verification="exact_sampling", seed=settings.seed + first
        )

    def as_published(histories: list[list[str]], first: int, k: int) -> Recommendation:
        return recommender.sample_as_published(histories, k, seed=settings.seed + first)

    longest = collect_lists(exactly, track(batches, "lists sampled from the target"))["items"].tolist()
    published = {
        k: collect_lists(partial(as_published, k=k), batches)["items"].tolist()
        for k in track(settings.ks, "lists sampled from the target as published")
    }
    return {
        "target_sampling": {k: [items[:k] for items in longest] for k in settings.ks},
        "target_sampling_published": published,
    }


def per_user_ranking(
    examples: Sequence[Example], reference: dict[int, pd.DataFrame], others: dict[str, dict[int, Lists]]
) -> pd.DataFrame:
    """One row per user, recommender and K: user_id, recommender, k, metrics of lists; `others`: name -> K -> lists."""
    users, targets = [example.user for example in examples], [example.targets for example in examples]
    frames = []
    for k, frame in reference.items():
        for name, lists in {"target": frame["items"].tolist(), **{n: by_k[k] for n, by_k in others.items()}}.items():
            columns = {"user_id": users, "recommender": name, "k": k, **measure_all(Answers(lists, targets, k))}
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def ranking_figures(per_user: pd.DataFrame, settings: Evaluate) -> dict[str, dict[str, Json]]:
    """Recommender -> K -> the metrics of lists with their intervals."""
    figures: dict[str, dict[str, Json]] = {}
    names = [metric.name for metric in of_lists()]
    for (name, k), rows in per_user.groupby(["recommender", "k"], sort=False):
        figures.setdefault(str(name), {})[str(k)] = mean_figures(
            rows, names, samples=settings.bootstrap_samples, seed=settings.seed
        )
    return figures


def reference_speeds(times: ReferenceTimes, settings: Evaluate) -> dict[str, Json]:
    """K -> latency of generate at batch 1 in milliseconds, and how much faster the oracle is than no speculation."""
    options = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    return {
        str(k): {
            **latency(seconds[GENERATE]),
            **speedup("walltime_speedup_oracle", paired_ratios(seconds[NONE], seconds[ORACLE]), **options),
            **speedup("walltime_speedup_vs_generate", paired_ratios(seconds[GENERATE], seconds[NONE]), **options),
        }
        for k, seconds in times.seconds.items()
    }
