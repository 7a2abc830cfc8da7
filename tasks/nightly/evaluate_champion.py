"""Measures the champion on tonight's test users, so that the gate compares both models on the same users."""

import logging
from pathlib import Path
from typing import Any

import typer

from atspeed_core.data.sequences import load_full_examples
from atspeed_core.device import device_facts
from atspeed_core.evaluation.champion_figures import answerable, evaluate_champion
from atspeed_core.files import read_json, replacing, write_json
from atspeed_core.settings import Evaluate, load_params
from atspeed_core.verifications import primary
from tasks.deployment.model_registry import RUN, Champion, champion_of, recommender_version
from tasks.deployment.weights import fetch_for_deployment, load_recommender
from tasks.deployment.workflow import NothingToDo, answer, command
from tasks.machine_lock import machine_alone
from tasks.mlflow_store import mlflow_client
from tasks.nightly.night import Night, load_night
from tasks.paths import PROCESSED, RESULTS
from tasks.record import digest

Json = dict[str, Any]

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
        result = evaluate(champion, load_params(Path("params.yaml")).evaluate)
        answer({"champion_version": champion.version, "figures": result["verifications"][primary().name]})


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


def evaluate(champion: Champion, settings: Evaluate) -> Json:
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
    with machine_alone():
        figures, per_user = evaluate_champion(recommender, examples, settings.model_copy(update={"ks": ks}))
    result = {
        "of": key,
        "method": champion.method,
        "num_test_users": len(examples),
        "ks": ks,
        "device": device_facts(recommender.device, recommender.dtype),
        "verifications": {primary().name: figures},
    }
    with replacing(PER_USER) as temporary:
        per_user.to_parquet(temporary, index=False)
    write_json(FIGURES, result)
    return result


if __name__ == "__main__":
    app()
