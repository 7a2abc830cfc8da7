"""The MLflow model registry of a deployment: names, aliases, tags, and the champion.

There are three registered models per data set: target, draft and the recommender that consists of both. A version of
the recommender has the versions of the other two in its tags, so its aliases decide; those of target and draft follow.
"""

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from atspeed_core.errors import UserError
from tasks.mlflow_store import allowed_name, mlflow_client

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


class Champion(BaseModel):
    """A recommender that is or was in service.

    Attributes:
        version: of the registered recommender.
        commit: git commit that contains it (its dvc.lock, params.yaml).
        date: the last day whose interactions it was trained on, YYYY-MM-DD.
        method: of its draft.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    commit: str
    date: str
    method: str


def registered_name(dataset: str, part: str) -> str:
    """Name of the registered model of `part`: "target", "draft" or "recommender"."""
    return allowed_name(f"atspeed-{dataset}-{part}")


def version_tag(part: str) -> str:
    """The tag of a recommender version with the version of its target or draft."""
    return f"atspeed.{part}_version"


def version_of(client: "MlflowClient", name: str, alias: str) -> str | None:
    """The version of registered model `name` with `alias`; None: there is no such alias or model."""
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
        UserError: there is no such version.
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
    return _champion(version, recommender_version(client, dataset, version).tags)


def current_champion(dataset: str) -> Champion | None:
    """The recommender in service; None where there is none yet.

    Raises:
        TemporaryError: the tracking server does not answer.
    """
    with mlflow_client() as client:
        return champion_of(client, dataset)


def accepted_before(dataset: str, date: str) -> Champion | None:
    """The newest recommender that the gate accepted and that was trained on days before `date` only; None: none.

    Raises:
        TemporaryError: the tracking server does not answer.
    """
    with mlflow_client() as client:
        versions = client.search_model_versions(f"name = '{registered_name(dataset, RECOMMENDER)}'")
    earlier = [v for v in versions if v.tags.get(GATE) == ACCEPTED and v.tags.get(DATE, date) < date]
    if not earlier:
        return None
    newest = max(earlier, key=lambda version: (version.tags[DATE], int(version.version)))
    return _champion(str(newest.version), newest.tags)


def set_alias(client: "MlflowClient", dataset: str, alias: str, version: str) -> None:
    """Set `alias` on a recommender version and on its target and draft; the recommender last.

    After a kill in between, the recommender's alias is unchanged and the next attempt sets all of them.
    """
    tags = recommender_version(client, dataset, version).tags
    for part in PARTS:
        client.set_registered_model_alias(registered_name(dataset, part), alias, tags[version_tag(part)])
    client.set_registered_model_alias(registered_name(dataset, RECOMMENDER), alias, version)


def drop_alias(client: "MlflowClient", dataset: str, alias: str) -> None:
    """Delete `alias` from all three; the recommender last."""
    for part in (*PARTS, RECOMMENDER):
        client.delete_registered_model_alias(registered_name(dataset, part), alias)


def _champion(version: str, tags: dict[str, str]) -> Champion:
    return Champion(version=version, commit=tags[COMMIT], date=tags[DATE], method=tags[METHOD])
