"""Measures the champion on tonight's test users, so that the gate compares both models on the same users."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer

from atspeed_core.data.sequences import Example, load_full_examples
from atspeed_core.decoding.plan import Plan
from atspeed_core.device import device_facts
from atspeed_core.evaluation.intervals import mean_figures
from atspeed_core.evaluation.lists import choose_users
from atspeed_core.evaluation.measure import per_user_figures, timed_requests
from atspeed_core.evaluation.speed import speedup
from atspeed_core.files import read_json, replacing, write_json
from atspeed_core.progress import track
from atspeed_core.recommender import Recommender
from atspeed_core.settings import Evaluate, load_params
from atspeed_core.timing import latency, time_interleaved
from tasks.deployment.model_registry import RUN, Champion, champion_of, recommender_version
from tasks.deployment.weights import fetch_for_deployment, load_recommender
from tasks.deployment.workflow import NothingToDo, answer, command
from tasks.evaluate import REPETITIONS, WARMUPS, lists_at
from tasks.mlflow_store import mlflow_client
from tasks.nightly.night import Night, load_night
from tasks.paths import PROCESSED, RESULTS
from tasks.record import digest

Json = dict[str, Any]

VERIFICATION = "strict"
FIGURES = RESULTS / "champion.json"
PER_USER = RESULTS / "per_user" / "champion.parquet"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger(__name__)


@app.command()
def main() -> None:
    """Write results/champion.json and its per-user figures (in a night's checkout)."""
    with command("evaluate_champion"):
        night = load_night()
        if night.dry_run:
            raise NothingToDo("dry run: the champion is not measured")
        champion = opponent(night)
        if champion is None:
            discard()
            answer({"champion_version": None, "figures": {}})
            return
        result = evaluate_champion(champion, load_params(Path("params.yaml")).evaluate)
        answer({"champion_version": champion.version, "figures": result["verifications"][VERIFICATION]})


def opponent(night: Night) -> Champion | None:
    """The model that this night's challenger would replace.

    This is the current champion, which may have changed since the night was opened. A night that was promoted
    already is compared with the same champion as before its promotion.
    """
    with mlflow_client() as client:
        current = champion_of(client, night.dataset)
        if current is None or current.version == (night.champion and night.champion.version):
            return current
        tags = recommender_version(client, night.dataset, current.version).tags
    return night.champion if tags.get(RUN) == night.mlflow_run_id else current


def discard() -> None:
    """Remove the figures of an earlier champion where there is none."""
    for path in (FIGURES, PER_USER):
        path.unlink(missing_ok=True)


def evaluate_champion(champion: Champion, settings: Evaluate) -> Json:
    """Measure `champion` on the test users in data/processed; returns the content of results/champion.json.

    It decodes with its own params.yaml, as it does in service; users, K and bootstrap samples are tonight's. The same
    champion on the same users is measured only once.
    """
    key = {**champion.model_dump(), "test": digest(PROCESSED), "settings": settings.model_dump(mode="json")}
    if FIGURES.exists() and PER_USER.exists() and (earlier := read_json(FIGURES))["of"] == key:
        log.info("champion %s has been measured on these users", champion.version)
        return dict(earlier)
    recommender = load_recommender(fetch_for_deployment(champion.commit, champion.method))
    examples = load_full_examples(PROCESSED, "test")
    ks = answerable(settings.ks, recommender)
    figures, per_user = measure(recommender, examples, settings.model_copy(update={"ks": ks}))
    result = {
        "of": key,
        "method": champion.method,
        "num_test_users": len(examples),
        "ks": ks,
        "device": device_facts(recommender.device, recommender.dtype),
        "verifications": {VERIFICATION: figures},
    }
    with replacing(PER_USER) as temporary:
        per_user.to_parquet(temporary, index=False)
    write_json(FIGURES, result)
    return result


def answerable(ks: Sequence[int], recommender: Recommender) -> list[int]:
    """Those of `ks` that are within the champion's draft beams and catalog."""
    longest = min(recommender.decoding.draft_beams, recommender.catalog.trie.num_leaves)
    if left_out := [k for k in ks if k > longest]:
        log.warning("K = %s skipped: the champion's lists have at most %d items", left_out, longest)
    return [k for k in ks if k <= longest]


def measure(recommender: Recommender, examples: list[Example], settings: Evaluate) -> tuple[Json, pd.DataFrame]:
    """K -> figures, and one row per user and K; lists and steps, like the challenger's, do not depend on a plan."""
    unplanned = replace(recommender, plan=Plan([], {}))
    figures: Json = {}
    frames = []
    known = [bool(recommender.catalog.known_items(example.history)) for example in examples]
    options = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    for k in track(settings.ks, "evaluate champion at each K"):
        frames.append(rows_at(unplanned, examples, known, k, settings))
        answered = frames[-1].loc[known, ["accepted_steps", "target_calls"]]
        figures[str(k)] = {
            **mean_figures(frames[-1], ("recall", "ndcg"), **options),
            **{name: float(values.mean()) for name, values in answered.items()},
            **times_at(recommender, examples, known, k, settings),
        }
    return figures, pd.concat(frames, ignore_index=True)


def rows_at(
    recommender: Recommender, examples: list[Example], known: list[bool], k: int, settings: Evaluate
) -> pd.DataFrame:
    """One row per user: user_id, verification, k, accepted_steps, target_calls, target_nodes, recall, ndcg.

    A user without a known item in the history gets an empty list and no steps. Items that the champion does not know
    are skipped in histories and count as missed where they are held out.
    """
    answered = lists_at(
        recommender, [e for e, is_known in zip(examples, known, strict=True) if is_known], k, VERIFICATION, settings
    )
    lists = answered.set_axis(np.flatnonzero(known)).reindex(range(len(examples)))
    for column in ("items", "scores"):
        lists[column] = [row if isinstance(row, list) else [] for row in lists[column]]
    # The reference lists are the challenger's: there are none to compare these lists with.
    return per_user_figures(examples, lists, lists, k, VERIFICATION).drop(columns="identical")


def times_at(recommender: Recommender, examples: list[Example], known: list[bool], k: int, settings: Evaluate) -> Json:
    """WS and latency on the users of the challenger's timing; {} where the champion knows fewer than two of them."""
    chosen = choose_users(len(examples), settings.timing_users, settings.seed)
    histories = [examples[user].history for user in chosen if known[user]]
    if len(histories) < 2:
        return {}
    requests = timed_requests(recommender, histories, k, [VERIFICATION], num_generate=0, seed=settings.seed)
    seconds = time_interleaved(requests, device=recommender.device, repetitions=REPETITIONS, warmups=WARMUPS)
    options = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    return {
        **speedup("walltime_speedup", seconds["none"], seconds[VERIFICATION], **options),
        **latency(seconds[VERIFICATION]),
    }


if __name__ == "__main__":
    app()
