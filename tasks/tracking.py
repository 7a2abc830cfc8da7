"""Sends the records in outbox/ to MLflow. A store that cannot be reached never stops a stage; it causes a warning.

Each pipeline run has a parent run, created when its first record is sent (that of a night by open_run), and below it
one run per stage and method. A stage's run is identified by its key, so repeating the same work adds no second run.
"""

import fcntl
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atspeed_core.errors import TemporaryError
from atspeed_core.files import read_json
from tasks.addresses import masked
from tasks.environment import Deployment
from tasks.mlflow_store import allowed_name, check_answers, experiment, find_run
from tasks.record import OUTBOX

if TYPE_CHECKING:  # importing MLflow takes seconds: only a sender with something to send does
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

Json = dict[str, Any]

KEY = "atspeed.key"
PIPELINE_RUN = "atspeed.pipeline_run"
STATE = "atspeed.state"  # tag of a parent run that its creator ends, as tasks/nightly/close_run.py does
METRICS_PER_REQUEST = 1000  # MLflow's maximum
PARAMS_PER_REQUEST = 100
MAX_VALUE = 5000  # characters of a param or tag

log = logging.getLogger(__name__)


def send_or_warn(outbox: Path = OUTBOX) -> int:
    """Send the waiting records; returns how many still wait. Any failure becomes one warning."""
    try:
        send_pending(outbox)
    except Exception as error:  # tracking must not stop the work that it tracks
        log.warning(
            "MLflow: %s; the record waits in %s/ and is sent by the next run or by: make mlflow-send",
            _one_line(error),
            outbox,
        )
    return len(waiting(outbox))


def send_pending(outbox: Path = OUTBOX) -> int:
    """Send the waiting records, oldest first; returns how many were sent.

    Raises:
        TemporaryError: the store does not answer; records that were not sent stay in the outbox.
    """
    if not waiting(outbox):
        return 0
    check_answers(Deployment.from_environment().store_uri)
    with _only_sender(outbox), experiment() as (client, experiment_id):
        records = waiting(outbox)
        for folder in records:
            _send(client, experiment_id, read_json(folder / "record.json"), folder / "artifacts")
            shutil.rmtree(folder)
    return len(records)


def waiting(outbox: Path = OUTBOX) -> list[Path]:
    """Folders of the records that wait, oldest first."""
    return sorted(file.parent for file in outbox.glob("[0-9]*/record.json"))


def _send(client: "MlflowClient", experiment_id: str, record: Json, artifacts: Path) -> None:
    earlier = find_run(client, experiment_id, (KEY, record["key"]))
    if earlier and earlier.info.status == "FINISHED":
        return
    parent = _parent(client, experiment_id, record)
    run = earlier or client.create_run(
        experiment_id, record["started"], {**_tags(record), **_below(parent)}, run_name=_run_name(record)
    )
    _fill(client, run.info.run_id, record, artifacts)
    client.set_terminated(run.info.run_id, "FINISHED", record["ended"])
    if parent and STATE not in parent.data.tags:
        client.set_terminated(parent.info.run_id, "FINISHED", record["ended"])


def _fill(client: "MlflowClient", run_id: str, record: Json, artifacts: Path) -> None:
    from mlflow.entities import Metric, Param

    values = {**record["params"], **record["facts"]}
    params = [Param(allowed_name(name), value[:MAX_VALUE]) for name, value in values.items()]
    metrics = [Metric(allowed_name(m["name"]), m["value"], m["time"], m["step"]) for m in record["metrics"]]
    for part in _parts(params, PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=part)
    for part in _parts(metrics, METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=part)
    if any(artifacts.iterdir()):
        client.log_artifacts(run_id, str(artifacts))


def _parent(client: "MlflowClient", experiment_id: str, record: Json) -> "MlflowRun | None":
    pipeline_run = record["pipeline_run"]
    if pipeline_run is None:
        return None
    tags = {PIPELINE_RUN: pipeline_run, **_common_tags(record)}
    return find_run(client, experiment_id, (PIPELINE_RUN, pipeline_run)) or client.create_run(
        experiment_id, record["started"], tags, run_name=f"pipeline {record['dataset']}"
    )


def _tags(record: Json) -> dict[str, str]:
    digests = {f"digest.{path}": value for path, value in record["digests"].items()}
    stage = {"stage": record["stage"], "method": record["method"], KEY: record["key"], **digests}
    return {**_common_tags(record), **_texts(stage)}


def _common_tags(record: Json) -> dict[str, str]:
    facts = {
        "dataset": record["dataset"],
        "dvc.lock": record["dvc_lock"],
        "dvc.experiment": record["experiment"],
        "mlflow.source.git.commit": record["git_commit"],
        "git.uncommitted_changes": record["git_changed"],
    }
    return _texts(facts)


def _texts(facts: Json) -> dict[str, str]:
    return {allowed_name(name): str(value)[:MAX_VALUE] for name, value in facts.items() if value is not None}


def _below(parent: "MlflowRun | None") -> dict[str, str]:
    return {"mlflow.parentRunId": parent.info.run_id} if parent else {}


def _run_name(record: Json) -> str:
    return f"{record['stage']}@{record['method']}" if record["method"] else str(record["stage"])


def _parts(values: Sequence[Any], size: int) -> Iterator[list[Any]]:
    return (list(values[start : start + size]) for start in range(0, len(values), size))


def _one_line(error: Exception) -> str:
    text = " ".join(masked(str(error)).split())
    return text if isinstance(error, TemporaryError) else f"{type(error).__name__}: {text[:300]}"


@contextmanager
def _only_sender(outbox: Path) -> Iterator[None]:
    """Allow one sender at a time in this folder: two would create two runs of one record."""
    with (outbox / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
