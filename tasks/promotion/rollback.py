"""Restores the previous champion: the aliases champion and previous change places.

A second swap would undo the first. So a rollback is noted in a tag of the registered recommender before it starts: a
killed one is completed, and a retry within the same DAG run does not swap again.
"""

import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from atspeed_core.errors import UserError
from tasks.deployment.model_registry import (
    CHAMPION,
    PREVIOUS,
    RECOMMENDER,
    ROLLED_BACK,
    registered_name,
    set_alias,
    version_of,
)
from tasks.deployment.workflow import answer, command
from tasks.environment import RUN_ID
from tasks.mlflow_store import mlflow_client

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient

JOURNAL = "atspeed.rollback"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollback:
    """One rollback.

    Attributes:
        run_id: the DAG run that requested it; None: a person at the command line.
        left: version that is taken out of service.
        restored: version that takes its place.
        time: of its start, ISO 8601, UTC.
        done: whether it is complete.
    """

    run_id: str | None
    left: str
    restored: str
    time: str
    done: bool = False


@app.command()
def main(
    dataset: Annotated[str, typer.Option(help="The preset's name.")],
    run_id: Annotated[
        str | None, typer.Option(envvar=RUN_ID, help="The DAG run that requests it; it rolls back only once per run.")
    ] = None,
) -> None:
    """Put the previous champion back into service."""
    with command("rollback"):
        with mlflow_client() as client:
            rollback = roll_back(client, dataset, run_id)
        answer({"dataset": dataset, "champion": rollback.restored, "previous": rollback.left})


def roll_back(client: "MlflowClient", dataset: str, run_id: str | None) -> Rollback:
    """Swap champion and previous, or complete an unfinished swap.

    Raises:
        UserError: there is no previous champion.
    """
    name = registered_name(dataset, RECOMMENDER)
    last = read_journal(client, name)
    if last and last.done and run_id and last.run_id == run_id:
        log.info("%s: run %s has rolled back already", name, run_id)
        return last
    plan = last if last and is_under_way(client, name, last) else start(client, name, run_id)
    client.set_model_version_tag(name, plan.left, ROLLED_BACK, plan.time)
    client.delete_model_version_tag(name, plan.restored, ROLLED_BACK)
    set_alias(client, dataset, PREVIOUS, plan.left)
    set_alias(client, dataset, CHAMPION, plan.restored)
    write_journal(client, name, Rollback(**{**asdict(plan), "done": True}))
    log.info("%s: version %s is champion again instead of version %s", name, plan.restored, plan.left)
    return plan


def is_under_way(client: "MlflowClient", name: str, rollback: Rollback) -> bool:
    """Whether it was started but not completed, and nothing was promoted since."""
    return not rollback.done and version_of(client, name, CHAMPION) in (rollback.left, rollback.restored)


def start(client: "MlflowClient", name: str, run_id: str | None) -> Rollback:
    """Plan a rollback and note it.

    Raises:
        UserError: there is no previous champion.
    """
    champion, previous = version_of(client, name, CHAMPION), version_of(client, name, PREVIOUS)
    if champion is None or previous is None or champion == previous:
        raise UserError(f"{name}: there is no previous champion to restore; promote a second version first")
    plan = Rollback(run_id, champion, previous, datetime.now(UTC).isoformat(timespec="seconds"))
    write_journal(client, name, plan)
    return plan


def read_journal(client: "MlflowClient", name: str) -> Rollback | None:
    """The last rollback; None where there was none, or no recommender."""
    from mlflow.exceptions import MlflowException

    try:
        text = client.get_registered_model(name).tags.get(JOURNAL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return Rollback(**json.loads(text)) if text else None


def write_journal(client: "MlflowClient", name: str, rollback: Rollback) -> None:
    """Note the state of a rollback."""
    client.set_registered_model_tag(name, JOURNAL, json.dumps(asdict(rollback)))


if __name__ == "__main__":
    app()
