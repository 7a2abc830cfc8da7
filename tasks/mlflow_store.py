"""Access to MLflow's store: whether it answers, a client of it, and runs that are found again by a tag."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atspeed_core.errors import TemporaryError
from tasks.addresses import masked
from tasks.environment import Deployment, set_mlflow_defaults

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages of runs and models, not those of traces
CONNECT_SECONDS = 3


@contextmanager
def mlflow_client() -> Iterator["MlflowClient"]:
    """A client of the store, for the length of a block.

    Raises:
        TemporaryError: the server does not answer, before or within the block.
    """
    uri = Deployment.from_environment().store_uri
    check_answers(uri)
    set_mlflow_defaults()
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    for chatty in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    try:
        yield mlflow.MlflowClient(uri)
    except (MlflowException, RequestException) as error:
        if "failed with exception" in str(error) or isinstance(error, RequestException):
            raise TemporaryError(f"MLflow at {masked(uri)} stopped answering; run again when it does") from error
        raise


@contextmanager
def experiment() -> Iterator["tuple[MlflowClient, str]"]:
    """A client, and the id of the experiment of all runs, which is created when there is none.

    Raises:
        TemporaryError: the server does not answer, before or within the block.
    """
    deployment = Deployment.from_environment()
    with mlflow_client() as client:
        known = client.get_experiment_by_name(deployment.experiment)
        if known is not None:
            yield client, known.experiment_id
        else:  # the store in the project keeps its files there; a server has a place of its own
            files = None if deployment.tracking_uri else Path("mlartifacts").resolve().as_uri()
            yield client, client.create_experiment(deployment.experiment, artifact_location=files, tags=KIND)


def find_run(client: "MlflowClient", experiment_id: str, tag: tuple[str, str]) -> "MlflowRun | None":
    """The run with a tag (name, value); None: there is none."""
    name, value = tag
    runs = client.search_runs([experiment_id], f"tags.`{name}` = '{value}'", max_results=1)
    return runs[0] if runs else None


def find_or_create_run(
    client: "MlflowClient", experiment_id: str, name: str, tag: tuple[str, str], tags: dict[str, str]
) -> "MlflowRun":
    """The run with `tag` (name, value); where there is none, a new one with `tag` and `tags`: a retry adds none."""
    run = find_run(client, experiment_id, tag)
    return run or client.create_run(experiment_id, tags={**tags, tag[0]: tag[1]}, run_name=name)


def check_answers(uri: str) -> None:
    """Check that a server answers, which is quicker than importing MLflow and waiting for its retries.

    Raises:
        TemporaryError: nothing answers at `uri`.
    """
    if not uri.startswith(("http://", "https://")):
        return
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=CONNECT_SECONDS)  # any answer will do
    except requests.RequestException as error:
        raise TemporaryError(f"no answer from {masked(uri)} ({type(error).__name__})") from None


def allowed_name(name: str) -> str:
    """A name that MLflow accepts: `recall@10` becomes `recall/at_10`, other characters that it refuses become `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "/at_"))
