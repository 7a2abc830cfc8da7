"""The MLflow registry of a deployment: names, aliases, tags, and who is champion.

Three registered models a data set: target, draft and the recommender that is made of both. A version of the
recommender names in its tags the versions of the other two, so the recommender's aliases decide; those of target and
draft follow.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from atspeed_core.errors import TemporaryError, UserError
from tasks.nightly.night import Champion
from tasks.tracking import allowed_name, check_answers, masked, tracking_uri

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"  # aliases
RECOMMENDER = "recommender"
PARTS = ("target", "draft")

COMMIT, TAG, DATE = "atspeed.commit", "atspeed.tag", "atspeed.date"
DATASET, METHOD, RUN = "atspeed.dataset", "atspeed.method", "atspeed.run"
GATE, REASON = "atspeed.gate", "atspeed.gate.reason."
ROLLED_BACK = "atspeed.rolled_back"
ACCEPTED, REFUSED = "accepted", "refused"

ENVIRONMENT = {  # of MLflow's own client
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def registered_name(dataset: str, part: str) -> str:
    """Name of the registered model of `part`: "target", "draft" or "recommender"."""
    return allowed_name(f"atspeed-{dataset}-{part}")


def version_tag(part: str) -> str:
    """Tag of a recommender version that names the version of its target or draft."""
    return f"atspeed.{part}_version"


@contextmanager
def registry() -> Iterator["MlflowClient"]:
    """A client of the tracking server, for the length of a block.

    Raises:
        TemporaryError: the server does not answer, before or within the block.
    """
    uri = tracking_uri()
    check_answers(uri)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
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


def version_of(client: "MlflowClient", name: str, alias: str) -> str | None:
    """The version of registered model `name` that bears `alias`; None without one, or without such a model."""
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_registered_model(name).aliases.get(alias)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return None if version is None else str(version)


def recommender_version(client: "MlflowClient", dataset: str, version: str) -> "ModelVersion":
    """A version of the data set's recommender.

    Raises:
        UserError: there is none.
    """
    from mlflow.exceptions import MlflowException

    name = registered_name(dataset, RECOMMENDER)
    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(f"{name} has no version '{version}'; look it up with: make mlflow") from None


def champion_of(client: "MlflowClient", dataset: str) -> Champion | None:
    """The recommender in service; None where there is none yet."""
    version = version_of(client, registered_name(dataset, RECOMMENDER), CHAMPION)
    if version is None:
        return None
    tags = recommender_version(client, dataset, version).tags
    return Champion(version=version, commit=tags[COMMIT], date=tags[DATE], method=tags[METHOD])


def set_alias(client: "MlflowClient", dataset: str, alias: str, version: str) -> None:
    """Give `alias` to a recommender version and to the target and draft that belong to it; the recommender last.

    Whoever was killed in between finds the recommender as it was, and does it all again.
    """
    tags = recommender_version(client, dataset, version).tags
    for part in PARTS:
        client.set_registered_model_alias(registered_name(dataset, part), alias, tags[version_tag(part)])
    client.set_registered_model_alias(registered_name(dataset, RECOMMENDER), alias, version)


def drop_alias(client: "MlflowClient", dataset: str, alias: str) -> None:
    """Take `alias` from all three; the recommender last."""
    for part in (*PARTS, RECOMMENDER):
        client.delete_registered_model_alias(registered_name(dataset, part), alias)
