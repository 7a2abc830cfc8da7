"""Sends what waits in outbox/ to MLflow. A store that cannot be reached never stops a stage: it warns.

A pipeline run is a parent run, made when its first stage is sent, or before that by open_run for a night; a stage and
method is a run below it. A stage's run is found again by its key, so work that was repeated without a change is on
record once.
"""

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atspeed_core.errors import TemporaryError
from atspeed_core.files import read_json
from tasks.record import OUTBOX

if TYPE_CHECKING:  # importing MLflow takes seconds: only a sender with something to send does
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

Json = dict[str, Any]

SENDER = "ATSPEED_SENDER"  # set by `make run`, which sends while its stages go on
EXPERIMENT = "atspeed-nightly"
KEY = "atspeed.key"
PIPELINE_RUN = "atspeed.pipeline_run"
STATE = "atspeed.state"  # of a parent run that its maker ends as well: tasks/nightly/close_run.py
KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages of runs and models, not those of traces
CONNECT_SECONDS = 3
METRICS_A_REQUEST = 1000  # what MLflow takes at most
PARAMS_A_REQUEST = 100
MAX_VALUE = 5000  # characters of a param or tag

log = logging.getLogger(__name__)


def send_or_warn(outbox: Path = OUTBOX) -> int:
    """Send what waits; returns how many records still wait. Whatever goes wrong is one warning."""
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
        TemporaryError: the store does not answer, or refuses; what is not sent stays in the outbox.
    """
    if not waiting(outbox):
        return 0
    check_answers(tracking_uri())
    with _only_sender(outbox):
        records = waiting(outbox)
        client, experiment = _connect()
        for folder in records:
            _send(client, experiment, read_json(folder / "record.json"), folder / "artifacts")
            shutil.rmtree(folder)
    return len(records)


def waiting(outbox: Path = OUTBOX) -> list[Path]:
    """Folders of the records that wait, oldest first."""
    return sorted(file.parent for file in outbox.glob("[0-9]*/record.json"))


def tracking_uri() -> str:
    """Where MLflow keeps its runs: MLFLOW_TRACKING_URI, or a sqlite file in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def check_answers(uri: str) -> None:
    """Ask a server for a sign of life, which is quicker than importing MLflow and waiting for its retries.

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


def masked(text: str) -> str:
    """`text` without the user names and passwords of the addresses in it."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def allowed_name(name: str) -> str:
    """A name as MLflow takes it: `recall@10` becomes `recall/at_10`, other signs that it refuses become `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "/at_"))


def _connect() -> "tuple[MlflowClient, str]":
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow.tracking import MlflowClient

    for chatty in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri())
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found:
        return client, found.experiment_id
    return client, client.create_experiment(name, artifact_location=_artifacts(), tags=KIND)


def _artifacts() -> str | None:
    """A folder of the project for the default store; a store of the user's chooses its own."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else Path("mlartifacts").resolve().as_uri()


def _send(client: "MlflowClient", experiment: str, record: Json, artifacts: Path) -> None:
    known = _find(client, experiment, KEY, record["key"])
    if known and known.info.status == "FINISHED":
        return
    parent = _parent(client, experiment, record)
    run = known or client.create_run(
        experiment, record["started"], {**_tags(record), **_below(parent)}, run_name=_run_name(record)
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
    for part in _parts(params, PARAMS_A_REQUEST):
        client.log_batch(run_id, params=part)
    for part in _parts(metrics, METRICS_A_REQUEST):
        client.log_batch(run_id, metrics=part)
    if any(artifacts.iterdir()):
        client.log_artifacts(run_id, str(artifacts))


def _parent(client: "MlflowClient", experiment: str, record: Json) -> "MlflowRun | None":
    pipeline_run = record["pipeline_run"]
    if pipeline_run is None:
        return None
    tags = {PIPELINE_RUN: pipeline_run, **_common_tags(record)}
    return _find(client, experiment, PIPELINE_RUN, pipeline_run) or client.create_run(
        experiment, record["started"], tags, run_name=f"pipeline {record['dataset']}"
    )


def _find(client: "MlflowClient", experiment: str, tag: str, value: str) -> "MlflowRun | None":
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    return found[0] if found else None


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
    """One sender at a time in this folder: two would make two runs of one record."""
    with (outbox / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
