"""Sending to MLflow, against a real server on the loopback."""

import json
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atspeed_core.errors import TemporaryError
from atspeed_core.settings import load_params
from tasks import tracking
from tasks.addresses import masked
from tasks.mlflow_store import allowed_name
from tasks.record import digest, flat_params, provenance, write_record
from tasks.tracking import send_or_warn, send_pending, waiting
from tests.complete_params import Params
from tests.mlflow_server import mlflow_server

ROOT = Path(__file__).resolve().parents[2]
WIRING = """
stages:
  align_draft:
    matrix: {method: [sft]}
    cmd: python -m tasks.align_draft --method ${item.method}
    params: [align_draft, prepare_data.max_history]
    deps: [data, "drafts/${item.method}"]
  prepare_data:
    cmd: python -m tasks.prepare_data
    params: [prepare_data]
    deps: ["${prepare_data.path}"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server with a store of its own."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def experiment(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a new experiment at the server; the working folder has a small wiring of its own."""
    name = uuid.uuid4().hex
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    monkeypatch.setenv("ATSPEED_RUN_ID", f"night-{name}")
    (tmp_path / "dvc.yaml").write_text(WIRING)
    (tmp_path / "data").write_text("data")
    return name


def params(**align_draft: Any) -> Params:
    default = load_params(ROOT / "params.yaml")
    return default.model_copy(update={"align_draft": default.align_draft.model_copy(update=align_draft)})


def leave(settings: Params, *, artifacts: tuple[Path, ...] = (), **metrics: float) -> Path:
    """A record as stage align_draft@sft leaves it."""
    points = [{"name": name, "value": value, "step": 10, "time": 1000} for name, value in metrics.items()]
    origin = provenance("align_draft", "sft", settings)
    facts = {"num_users": "7"}
    record = {**origin, "metrics": points, "facts": facts, "dataset": "toy", "started": 500}
    return write_record(record, list(artifacts))


def runs(experiment: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    known_experiment = client.get_experiment_by_name(experiment)
    return list(client.search_runs([known_experiment.experiment_id])) if known_experiment else []


def children(experiment: str) -> list[Any]:
    return [run for run in runs(experiment) if "mlflow.parentRunId" in run.data.tags]


def test_a_record_becomes_a_run_below_its_pipeline_run(experiment: str, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("# table")
    leave(params(), artifacts=(summary,), accepted_steps=2.5)
    assert send_pending() == 1
    assert waiting() == []
    (child,) = children(experiment)
    (parent,) = [run for run in runs(experiment) if run.info.run_id != child.info.run_id]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.tags["atspeed.pipeline_run"] == f"night-{experiment}"
    assert (child.info.run_name, child.info.status, parent.info.status) == ("align_draft@sft", "FINISHED", "FINISHED")
    assert child.data.metrics == {"accepted_steps": 2.5}
    assert child.data.params["align_draft.alpha"] == str(params().align_draft.alpha)
    assert child.data.params["num_users"] == "7"
    assert child.data.tags["digest.data"] == digest(tmp_path / "data")
    assert {child.data.tags["method"], child.data.tags["dataset"]} == {"sft", "toy"}


def test_steps_and_files_arrive(experiment: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "recall.csv").write_text("k,recall\n")
    leave(params(), artifacts=(plots,), recall=0.5)
    send_pending()
    client, run = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]), children(experiment)[0]
    (point,) = client.get_metric_history(run.info.run_id, "recall")
    assert (point.value, point.step, point.timestamp) == (0.5, 10, 1000)
    assert [file.path for file in client.list_artifacts(run.info.run_id, "plots")] == ["plots/recall.csv"]


def test_the_same_work_is_on_record_once_and_changed_work_again(experiment: str, tmp_path: Path) -> None:
    for _ in range(2):
        leave(params(), loss=0.5)
        send_pending()
    assert len(children(experiment)) == 1
    leave(params(alpha=0.3), loss=0.4)
    (tmp_path / "data").write_text("other data")
    leave(params(alpha=0.3), loss=0.4)
    send_pending()
    assert len(children(experiment)) == 3
    assert len(runs(experiment)) == 4  # one parent


def test_work_that_was_repeated_later_makes_no_empty_pipeline_run(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(params(), loss=0.5)
    monkeypatch.setenv("ATSPEED_RUN_ID", "the next night")
    leave(params(), loss=0.5)
    send_pending()
    assert len(runs(experiment)) == 2


def test_sending_goes_on_where_it_broke_off(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(params(), loss=0.5)
    with monkeypatch.context() as broken:
        broken.setattr(tracking, "_fill", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
        assert send_or_warn() == 1
    assert send_or_warn() == 0
    assert len(children(experiment)) == 1
    assert children(experiment)[0].data.metrics == {"loss": 0.5}


def test_a_server_that_is_down_is_one_quick_warning_and_is_sent_later(
    experiment: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    up = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://analyst:secret@127.0.0.1:9")  # pragma: allowlist secret
    leave(params(), loss=0.5)
    leave(params(alpha=0.1), loss=0.4)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert send_or_warn() == 2
    assert time.monotonic() - started < 5
    assert len(caplog.records) == 1
    assert "make mlflow-send" in caplog.text
    assert "secret" not in caplog.text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", up)
    command = [sys.executable, "-m", "tasks.send_mlflow"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == f"2 records sent to {up}\n", done.stderr
    assert len(children(experiment)) == 2


def test_any_fault_of_tracking_is_a_warning(experiment: str, caplog: pytest.LogCaptureFixture) -> None:
    (leave(params(), loss=0.5) / "record.json").write_text("{")
    assert send_or_warn() == 1
    assert "MLflow: JSONDecodeError" in caplog.text


def test_sending_by_hand_says_that_the_server_is_down(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(params(), loss=0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TemporaryError, match="no answer"):
        send_pending()


def test_names_that_mlflow_refuses_are_changed(experiment: str) -> None:
    write_record(
        {
            **provenance("align_draft", "sft", params()),
            "metrics": [{"name": "recall@10", "value": 0.1, "step": 0, "time": 1}],
            "facts": {"a*b": "1"},
            "dataset": "toy",
            "started": 1,
        },
        [],
    )
    send_pending()
    (child,) = children(experiment)
    assert child.data.metrics == {"recall/at_10": 0.1}
    assert child.data.params["a_b"] == "1"


def test_the_default_store_is_a_file_of_the_project(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")} | {"PYTHONPATH": str(ROOT)}
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    code = (
        "from pathlib import Path\nfrom tasks.stage import stage\n"
        "with stage('report', Path('params.yaml')) as run: run.artifact(Path('params.yaml'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "mlflow.db").exists()
    assert len(list(tmp_path.glob("mlartifacts/*/artifacts/params.yaml"))) == 1


def test_a_key_tells_settings_data_and_method_apart_and_nothing_else(experiment: str, tmp_path: Path) -> None:
    def key(method: str, settings: Params) -> str:
        return str(provenance("align_draft", method, settings)["key"])

    first = key("sft", params())
    other_section = params().model_copy(update={"report": params().report.model_copy(update={"title": "other"})})
    assert key("sft", other_section) == first
    assert key("atspeed_s", params()) != first
    assert key("sft", params(beta=2.0)) != first
    (tmp_path / "data").write_text("changed")
    assert key("sft", params()) != first


def test_data_that_params_name_are_part_of_the_key(experiment: str) -> None:
    source = params().prepare_data.model_copy(update={"path": "feed.csv"})
    settings = params().model_copy(update={"prepare_data": source})
    keys = set()
    for content in ("one day", "two days", "one day"):
        Path("feed.csv").write_text(content)
        keys.add(provenance("prepare_data", None, settings)["key"])
    assert len(keys) == 2


def test_a_stage_that_is_not_wired_is_new_each_time(experiment: str) -> None:
    keys = {provenance("report", None, params())["key"] for _ in range(2)}
    assert len(keys) == 2


def test_params_are_those_that_the_stage_reads() -> None:
    flat = flat_params(params(), ["align_draft", "prepare_data.max_history"])
    assert flat["align_draft.lambda"] == str(params().align_draft.lambda_)
    assert flat["prepare_data.max_history"] == "20"
    assert not any(name.startswith(("evaluate", "prepare_data.k_core")) for name in flat)


def test_a_digest_sees_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = digest(folder)
    (folder / "a").rename(folder / "b")
    renamed = digest(folder)
    (folder / "b").write_text("2")
    assert len({before, renamed, digest(folder), digest(tmp_path / "none")}) == 4


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:pass@host:5000/x", "http://***@host:5000/x"),  # pragma: allowlist secret
        ("postgresql+psycopg2://u:p@ss@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_credentials_are_masked(address: str, shown: str) -> None:
    assert masked(f"no answer from {address}") == f"no answer from {shown}"


def test_allowed_names_stay_as_they_are() -> None:
    assert allowed_name("strict/recall/at_10") == "strict/recall/at_10"


def test_a_record_holds_no_environment(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "very-secret")
    text = (leave(params()) / "record.json").read_text()
    assert json.loads(text)["stage"] == "align_draft"
    assert "very-secret" not in text
