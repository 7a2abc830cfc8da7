"""Puts a version that passed the gate into service: it becomes champion, and the champion becomes previous."""

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from atspeed_core.errors import UserError
from tasks.deployment.model_registry import (
    ACCEPTED,
    CHALLENGER,
    CHAMPION,
    GATE,
    PREVIOUS,
    RECOMMENDER,
    drop_alias,
    recommender_version,
    registered_name,
    set_alias,
    version_of,
)
from tasks.deployment.workflow import answer, command
from tasks.mlflow_store import mlflow_client

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger(__name__)


@app.command()
def main(
    dataset: Annotated[str, typer.Option(help="The preset's name.")],
    version: Annotated[str, typer.Option(help="Version of the registered recommender; the gate accepted it.")],
) -> None:
    """Set the aliases champion and previous."""
    with command("promote"):
        with mlflow_client() as client:
            previous = promote(client, dataset, version)
        answer({"dataset": dataset, "champion": version, "previous": previous})


def promote(client: "MlflowClient", dataset: str, version: str) -> str | None:
    """Make `version` champion; returns the previous one. Promoting the champion changes nothing.

    `previous` is written first and the recommender's `champion` last: after a kill in between, the old champion is
    still in service and the next attempt repeats all of it.

    Raises:
        UserError: there is no such version, or the gate did not accept it.
    """
    name = registered_name(dataset, RECOMMENDER)
    verdict = recommender_version(client, dataset, version).tags.get(GATE)
    champion = version_of(client, name, CHAMPION)
    if champion != version:
        if verdict != ACCEPTED:
            reason = f"the gate has not accepted it ({verdict or 'not judged'})"
            remedy = f"run: python -m tasks.promotion.gate --dataset {dataset} --version {version}"
            raise UserError(f"{name} version {version}: {reason}; {remedy}")
        if champion is not None:
            set_alias(client, dataset, PREVIOUS, champion)
        set_alias(client, dataset, CHAMPION, version)
        log.info("%s: version %s is champion; the previous champion was %s", name, version, champion or "none")
    if version_of(client, name, CHALLENGER) == version:
        drop_alias(client, dataset, CHALLENGER)
    return version_of(client, name, PREVIOUS)


if __name__ == "__main__":
    app()
