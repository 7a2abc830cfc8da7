"""Stage evaluate_target: reference lists and figures of the target, of its draws and of recommenders without an LLM."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import typer

from atspeed_core.data.sequences import Example, load_full_examples, load_train
from atspeed_core.device import device_facts
from atspeed_core.evaluation.baselines import (
    TrainingData,
    recommend_popular,
    recommend_similar,
    tune_item_knn,
    tune_popularity,
)
from atspeed_core.evaluation.inputs import rows_by_k
from atspeed_core.evaluation.intervals import mean_figures
from atspeed_core.evaluation.lists import (
    check_ks,
    choose_users,
    collect_lists,
    in_batches,
    lists_digest,
    write_reference,
)
from atspeed_core.evaluation.ranking import ranking_metrics
from atspeed_core.evaluation.sasrec import SasRecData, recommend_next, train_sasrec
from atspeed_core.files import replacing, write_json
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.progress import track
from atspeed_core.recommender import Recommendation, Recommender
from atspeed_core.settings import Evaluate, Params
from atspeed_core.timing import latency, time_interleaved
from tasks.paths import IDENTIFIERS, PROCESSED, REFERENCE, RESULTS, TARGET
from tasks.stage import ParamsPath, Run, stage

Json = dict[str, Any]

WARMUPS = 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger(__name__)


@app.command()
def main(params: ParamsPath = Path("params.yaml")) -> None:
    """Write data/reference/lists.parquet (transformers' generate), results/target.json and its per-user figures."""
    with stage("evaluate_target", params) as run:
        record(evaluate_target(run.params), run)


def evaluate_target(params: Params) -> Json:
    """Measure the target in the project's folder; returns the content of results/target.json.

    Raises:
        UserError: an input is missing or damaged, or a K is larger than the catalogue.
    """
    settings = params.evaluate
    identifiers = IDENTIFIERS / "identifiers.json"
    examples, catalog = load_full_examples(PROCESSED, "test"), Catalog.load(identifiers)
    check_ks(settings.ks, catalog.trie.num_leaves, len(examples))
    decoding = params.decoding().without_draft()
    recommender = Recommender.load(target=TARGET, identifiers=identifiers, decoding=decoding)
    baselines, chosen = baseline_lists(PROCESSED, examples, catalog.items, params, recommender.device)
    reference = reference_lists(recommender, examples, settings)
    others = {name: dict.fromkeys(settings.ks, lists) for name, lists in baselines.items()}
    others |= sampled_lists(recommender, examples, settings)
    chosen |= {name: {"temperature": settings.temperature} for name in others.keys() - baselines.keys()}
    per_user = per_user_ranking(examples, reference, others)
    figures, times = ranking_figures(per_user, settings), generate_latencies(recommender, examples, settings)
    target = {k: {**figures["target"][k], **times[k]} for k in times}
    result = {
        "method": "target",
        "num_test_users": len(examples),
        "ks": settings.ks,
        "reference_sha256": lists_digest(reference),
        "device": device_facts(recommender.device, recommender.dtype),
        "target": {
            "parameters": recommender.target_parameters,
            "exclude_history": settings.exclude_history,
            **target,
        },
        "baselines": {name: {"settings": chosen[name], **figures[name]} for name in others},
    }
    save(result, per_user, [example.user for example in examples], reference)
    return result


def baseline_lists(
    processed: Path, examples: Sequence[Example], items: list[str], params: Params, device: torch.device
) -> tuple[dict[str, list[list[str]]], dict[str, Json]]:
    """Lists of the recommenders without an LLM for the test users, and the settings chosen on validation users.

    Popularity and item-kNN may use all that is known of a user, wherever that serves them better than the most recent
    `max_history` items, which are all that the target and SASRec see. Counts and weights come from training alone.
    """
    settings, max_history, k = params.evaluate, params.prepare_data.max_history, max(params.evaluate.ks)
    valid, train = load_full_examples(processed, "valid"), list(load_train(processed).values())
    data = TrainingData.from_sequences(items, train)
    before_valid, held_out = [e.history for e in valid], [e.targets for e in valid]
    before_test = [e.history for e in examples]
    popular = tune_popularity(data, before_valid, held_out)
    similar = tune_item_knn(data, before_valid, held_out, max_history=max_history)
    ordered = SasRecData.build(data, train, before_valid, held_out)
    trained = train_sasrec(ordered, settings.sasrec, max_history=max_history, seed=settings.seed, device=device)
    log.info("chosen on %d validation users: %s, %s, %s", len(valid), popular, similar, trained.chosen)
    lists = {
        "popularity": recommend_popular(data, popular, before_test, k),
        "item_knn": recommend_similar(data, similar, before_test, k),
        "sasrec": recommend_next(trained, data, before_test, k),
    }
    return lists, {"popularity": asdict(popular), "item_knn": asdict(similar), "sasrec": asdict(trained.chosen)}


def reference_lists(
    recommender: Recommender, examples: Sequence[Example], settings: Evaluate
) -> dict[int, pd.DataFrame]:
    """K -> lists of transformers' generate for all test users, each as if it were asked alone."""
    by_length = sorted(range(len(examples)), key=lambda user: len(examples[user].history))  # little padding
    batches = in_batches([examples[user].history for user in by_length], settings.batch_size)

    def lists_of(k: int) -> pd.DataFrame:
        progress = track(batches, f"reference lists, K = {k}")
        made = collect_lists(lambda histories, _: generated(recommender, histories, k), progress)
        return made.set_axis(by_length).sort_index()

    return {k: lists_of(k) for k in settings.ks}


def generated(recommender: Recommender, histories: list[list[str]], k: int) -> Recommendation:
    """Generate's lists for a batch, as it gives them to each request alone.

    A batch rounds otherwise than one request does, and so may order otherwise what is a rounding apart: some lists in
    ten thousand. Which these are is told by our own beam search, which decides ties as generate does for one alone.
    """
    made = recommender.generate(histories, k, prompt_once=True)
    ours = recommender.recommend(histories, k, verification="none")
    for number, history in enumerate(histories):
        if made.items[number] != ours.items[number]:
            alone = recommender.generate([history], k)
            made.items[number], made.scores[number] = alone.items[0], alone.scores[0]
    return made


def sampled_lists(
    recommender: Recommender, examples: Sequence[Example], settings: Evaluate
) -> dict[str, dict[int, list[list[str]]]]:
    """K -> lists that the target draws: without replacement from its law over items, and as published (AtSpeed)."""
    batches = in_batches([example.history for example in examples], settings.batch_size)

    def by_law(histories: list[list[str]], first: int, k: int) -> Recommendation:
        return recommender.recommend(histories, k, verification="exact_sampling", seed=settings.seed + first)

    def as_published(histories: list[list[str]], first: int, k: int) -> Recommendation:
        return recommender.sample_as_published(histories, k, seed=settings.seed + first)

    ways = {"target_sampling": by_law, "target_sampling_published": as_published}
    return {
        name: {k: collect_lists(partial(way, k=k), batches)["items"].tolist() for k in settings.ks}
        for name, way in track(ways.items(), "lists drawn by the target", total=len(ways))
    }


def per_user_ranking(
    examples: Sequence[Example],
    reference: dict[int, pd.DataFrame],
    others: dict[str, dict[int, list[list[str]]]],
) -> pd.DataFrame:
    """One row a user, recommender and K: user_id, recommender, k, recall, ndcg; `others`: name -> K -> lists."""
    users, targets = [example.user for example in examples], [example.targets for example in examples]
    frames = []
    for k, frame in reference.items():
        for name, lists in {"target": frame["items"].tolist(), **{n: by_k[k] for n, by_k in others.items()}}.items():
            recall, ndcg = ranking_metrics(lists, targets, k)
            columns = {"user_id": users, "recommender": name, "k": k, "recall": recall, "ndcg": ndcg}
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def ranking_figures(per_user: pd.DataFrame, settings: Evaluate) -> dict[str, dict[str, Json]]:
    """Recommender -> K -> recall and ndcg with their intervals."""
    figures: dict[str, dict[str, Json]] = {}
    for (name, k), rows in per_user.groupby(["recommender", "k"], sort=False):
        figures.setdefault(str(name), {})[str(k)] = mean_figures(
            rows, ("recall", "ndcg"), samples=settings.bootstrap_samples, seed=settings.seed
        )
    return figures


def generate_latencies(
    recommender: Recommender, examples: Sequence[Example], settings: Evaluate
) -> dict[str, dict[str, float]]:
    """K -> median and p95 latency of transformers' generate at batch 1, in milliseconds."""
    users = choose_users(len(examples), settings.timing_users, settings.seed)
    latencies = {}
    for k in track(settings.ks, "times of generate"):
        requests = [{"generate": partial(recommender.generate, [examples[user].history], k)} for user in users]
        seconds = time_interleaved(requests, device=recommender.device, repetitions=1, warmups=WARMUPS)
        latencies[str(k)] = latency(seconds["generate"])
    return latencies


def save(result: Json, per_user: pd.DataFrame, users: Sequence[str], reference: dict[int, pd.DataFrame]) -> None:
    """Write the reference lists and the figures."""
    write_reference(REFERENCE / "lists.parquet", users, reference)
    with replacing(RESULTS / "per_user" / "target.parquet") as temporary:
        per_user.to_parquet(temporary, index=False)
    write_json(RESULTS / "target.json", result)


def record(result: Json, run: Run) -> None:
    """Tell MLflow: metrics with step = K and flat ones such as recall/at_10, the baselines' under their name."""
    run.log_param("num_test_users", result["num_test_users"])
    run.log_param("target_parameters", result["target"]["parameters"])
    for prefix, by_k in {"": result["target"], **result["baselines"]}.items():
        for k, figures in rows_by_k(by_k):
            for name in (name for name, value in figures.items() if isinstance(value, float)):
                full_name = f"{prefix}/{name}".removeprefix("/")
                run.metric(full_name, figures[name], step=int(k))
                run.metric(f"{full_name}/at_{k}", figures[name])
    run.artifact(RESULTS / "target.json")


if __name__ == "__main__":
    app()
