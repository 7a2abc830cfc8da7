"""Runs in MLflow that a nightly command makes itself; found again by a tag, so a retry makes no second one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks import tracking
from tasks.deployment.model_registry import registry

if TYPE_CHECKING:  # takes seconds to import
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient


@contextmanager
def experiment() -> Iterator["tuple[MlflowClient, str]"]:
    """Client, and the id of the experiment that the stages' runs are in.

    Raises:
        TemporaryError: the server does not answer, before or within the block.
    """
    with registry():
        yield tracking._connect()


def find_or_create(
    client: "MlflowClient", experiment_id: str, name: str, tag: tuple[str, str], tags: dict[str, str]
) -> "MlflowRun":
    """The run whose `tag` (name, value) says that it is this one, made with `tags` if there is none."""
    found = tracking._find(client, experiment_id, *tag)
    return found or client.create_run(experiment_id, tags={**tags, tag[0]: tag[1]}, run_name=name)
