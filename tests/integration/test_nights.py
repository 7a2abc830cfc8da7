"""Nights through a real Airflow, MLflow and PostgreSQL. The tests tell one story and run in this order."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import requests
import yaml

from local_services.servers import Server, answers, free_port
from tests.integration.airflow_api import seconds_of
from tests.integration.conftest import DAGS, FIRST_DAY, Stack
from tests.integration.deployment import DATASET, HISTORY_DAYS, USERS

pytestmark = [pytest.mark.services, pytest.mark.timeout(1800)]

RECOMMENDER = f"atspeed-{DATASET}-recommender"
ONE = ["atspeed_s"]
TWO = ["sft", "atspeed_s"]
OUTAGE_SECONDS = 60


def day(number: int) -> str:
    return f"{FIRST_DAY + pd.Timedelta(days=number):%Y-%m-%d}"


@pytest.fixture(scope="module")
def mlflow_client(stack: Stack) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(stack.mlflow.url)


def version_at(client: Any, alias: str) -> Any | None:
    """The model version that an alias points to."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(RECOMMENDER, alias)
    except MlflowException:
        return None


def parent_of(client: Any, run_id: str) -> Any:
    """The MLflow run of a DAG run."""
    (experiment,) = [e for e in client.search_experiments() if e.name == "atspeed-nightly"]
    (parent,) = client.search_runs([experiment.experiment_id], f"tags.`atspeed.pipeline_run` = '{run_id}'")
    return parent


def children_of(client: Any, parent: Any) -> dict[str, Any]:
    """Name -> run, of the stages recorded below a night."""
    runs = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return {run.info.run_name: run for run in runs}


def night(stack: Stack, run_id: str, number: int, **params: Any) -> str:
    """Start the night of a day by hand."""
    return stack.api.trigger("nightly_retrain", run_id, date=day(number), dataset=DATASET, **params)


def expect_success(stack: Stack, dag_id: str, run_id: str) -> None:
    assert stack.api.wait_for_run(dag_id, run_id) == "success", stack.api.explain(dag_id, run_id)


def promoted(stack: Stack, known: set[str]) -> str:
    """Wait for the next run of `promote` after those `known`; returns its id."""
    run_id = stack.api.wait_for_new_run("promote", known)
    expect_success(stack, "promote", run_id)
    return run_id


def done(stack: Stack, dag_id: str) -> set[str]:
    """Runs that have ended well."""
    return {run["dag_run_id"] for run in stack.api.runs(dag_id) if run["state"] == "success"}


def ids(stack: Stack, dag_id: str) -> set[str]:
    return {run["dag_run_id"] for run in stack.api.runs(dag_id)}


def test_a_night_without_new_data_does_nothing_and_says_so(stack: Stack, mlflow_client: Any) -> None:
    for dag_id in DAGS:
        stack.api.unpause(dag_id)
    run_id = stack.api.wait_for_new_run("nightly_retrain", set())
    expect_success(stack, "nightly_retrain", run_id)
    states = stack.api.states("nightly_retrain", run_id)
    assert (states["open_run"], states["ingest"], states["close_run"]) == ("success", "skipped", "success")
    assert {state for task, state in states.items() if task not in ("open_run", "close_run")} == {"skipped"}
    assert stack.deployment.tags() == []
    parent = parent_of(mlflow_client, run_id)
    assert parent.data.tags["atspeed.state"] == "skipped"
    assert "no interactions arrived" in parent.data.tags["mlflow.note.content"]


def test_a_backfill_gives_every_date_its_own_version(stack: Stack, mlflow_client: Any, tmp_path: Path) -> None:
    stack.deployment.add_history(FIRST_DAY)
    for number in range(2):
        stack.deployment.add_day(number, FIRST_DAY)
    known = ids(stack, "nightly_retrain")
    stack.api.backfill("nightly_retrain", day(0), day(1), methods=ONE)
    stack.api.wait(lambda: len(ids(stack, "nightly_retrain") - known) == 2 or None, "both runs of the backfill", 60)
    for run_id in sorted(ids(stack, "nightly_retrain") - known):
        expect_success(stack, "nightly_retrain", run_id)
    assert stack.deployment.tags() == [f"nightly/{day(number)}" for number in range(2)]
    for number in range(2):
        shown = stack.deployment.git("show", f"nightly/{day(number)}:data/interactions.dvc")
        known_days = yaml.safe_load(shown)["outs"][0]["nfiles"]
        assert known_days == HISTORY_DAYS + number + 1
    stack.api.wait(lambda: len(done(stack, "promote")) == 2 or None, "the gate of both", 120)
    assert version_at(mlflow_client, "champion").tags["atspeed.date"] == day(1)
    assert version_at(mlflow_client, "previous").tags["atspeed.date"] == day(0)


def test_a_second_night_warm_starts_and_is_promoted_though_the_scheduler_and_a_stage_are_killed(
    stack: Stack, mlflow_client: Any
) -> None:
    before, known = version_at(mlflow_client, "champion"), ids(stack, "promote")
    assert before is not None
    stack.deployment.add_day(2, FIRST_DAY)
    run_id = night(stack, "night-2", 2, methods=TWO)
    kill_stage(stack, run_id, "finetune_target")
    kill_scheduler(stack, run_id, "evaluate_target")
    expect_success(stack, "nightly_retrain", run_id)
    assert stack.api.wait_for_task("nightly_retrain", run_id, "finetune_target", ("success",))["try_number"] == 2
    promoted(stack, known)
    champion = version_at(mlflow_client, "champion")
    assert champion.tags["atspeed.date"] == day(2)
    assert version_at(mlflow_client, "previous").version == before.version
    children = children_of(mlflow_client, parent_of(mlflow_client, run_id))
    assert {"warm_start", "prepare_data", "build_identifiers", "cache_topk", "report"} <= children.keys()
    assert children["finetune_target"].data.params["started_from"] == before.tags["atspeed.commit"]
    assert all(run.info.status == "FINISHED" for run in children.values())
    assert {f"align_draft@{method}" for method in TWO} | {f"evaluate@{method}" for method in TWO} <= children.keys()
    assert identifiers(stack, before.tags["atspeed.commit"]).items() <= identifiers(stack, f"nightly/{day(2)}").items()


def kill_stage(stack: Stack, run_id: str, stage: str) -> None:
    """SIGKILL to the process of a stage, in the midst of its work; nothing that it started may live on."""
    stack.api.wait_for_task("nightly_retrain", run_id, stage, ("running",))
    process = stack.api.wait(lambda: process_of(stack, stage), f"the process of {stage}", 120)
    family = [process, *process.children(recursive=True)]
    process.kill()
    stack.api.wait(lambda: (not any(map(psutil.Process.is_running, family))) or None, "its processes to end", 30)


def process_of(stack: Stack, stage: str) -> psutil.Process | None:
    """The process of a stage in one of this deployment's checkouts; the machine may run others."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        here = (process.info["cwd"] or "").startswith(str(stack.home))
        if here and f"tasks.{stage}" in (process.info["cmdline"] or []):
            return process
    return None


def kill_scheduler(stack: Stack, run_id: str, task_id: str) -> None:
    """SIGKILL to the scheduler and all of its workers while a task runs, then start it again."""
    stack.api.wait_for_task("nightly_retrain", run_id, task_id, ("running",))
    scheduler = stack.airflow.servers["scheduler"]
    scheduler.kill()
    time.sleep(5)
    scheduler.start()


def identifiers(stack: Stack, revision: str) -> dict[str, list[str]]:
    """identifiers.json of a night."""
    import dvc.api

    remote = {"cache": {"dir": str(stack.home / "dvc-cache")}}
    text = dvc.api.read(
        "data/identifiers/identifiers.json", repo=str(stack.deployment.folder), rev=revision, config=remote
    )
    return dict(json.loads(text))


def test_every_user_gets_recommendations_from_the_new_champion(stack: Stack, mlflow_client: Any) -> None:
    champion = version_at(mlflow_client, "champion")
    current = stack.home / "recommendations" / DATASET / "current"

    def served() -> bool | None:
        return ((current / "manifest.json").exists() and current.resolve().name == f"v{champion.version}") or None

    stack.api.wait(served, "the recommendations of the champion", 600)
    lists = pd.concat(map(pd.read_parquet, sorted((current / "lists").glob("*.parquet"))))
    assert lists["user_id"].nunique() == USERS
    assert (lists.groupby("user_id").size() == 5).all()
    runs = [run for run in stack.api.runs("batch_recommend") if run["state"] == "success"]
    assert runs


def test_clearing_a_night_and_running_it_again_changes_nothing(stack: Stack, mlflow_client: Any) -> None:
    before = facts(stack, mlflow_client)
    stack.api.clear("nightly_retrain", "night-2")
    stack.api.wait_for_task("nightly_retrain", "night-2", "open_run", ("running", "success"))
    expect_success(stack, "nightly_retrain", "night-2")
    assert facts(stack, mlflow_client) == before


def facts(stack: Stack, client: Any) -> dict[str, Any]:
    """What a rerun must leave as it was: commits, versions, aliases, records."""
    parent = parent_of(client, "night-2")
    model = client.get_registered_model(RECOMMENDER)
    return {
        "tags": {tag: stack.deployment.commit_of(tag) for tag in stack.deployment.tags()},
        "versions": sorted(v.version for v in client.search_model_versions(f"name = '{RECOMMENDER}'")),
        "champion": dict(model.aliases)["champion"],
        "children": {name: run.info.run_id for name, run in children_of(client, parent).items()},
        "status": parent.info.status,
    }


def test_a_night_made_worse_is_refused_with_its_reasons_and_an_outage_of_mlflow_loses_nothing(
    stack: Stack, mlflow_client: Any
) -> None:
    champion, known = version_at(mlflow_client, "champion"), ids(stack, "promote")
    stack.deployment.branch("worse")
    stack.deployment.change_preset(
        {"finetune_target": {"learning_rate": 1.0e-9, "max_epochs": 1, "codebook_start": False}}
    )
    stack.deployment.main()
    stack.deployment.add_day(3, FIRST_DAY)
    run_id = night(stack, "night-3", 3, methods=ONE, revision="worse", full_retrain=True)
    stack.api.wait_for_task("nightly_retrain", run_id, "finetune_target", ("running",))
    stop_mlflow_for(stack, OUTAGE_SECONDS)
    expect_success(stack, "nightly_retrain", run_id)
    gate = stack.api.wait_for_new_run("promote", known)
    expect_success(stack, "promote", gate)
    assert stack.api.states("promote", gate) == {"gate": "skipped", "promote": "skipped"}
    assert version_at(mlflow_client, "champion").version == champion.version
    refused = newest(mlflow_client)
    assert (refused.tags["atspeed.date"], refused.tags["atspeed.gate"]) == (day(3), "refused")
    assert "recall" in refused.tags["atspeed.gate.reason.1"]
    stages = {"prepare_data", "build_identifiers", "finetune_target", "cache_topk", "evaluate_target"}
    stages |= {"align_draft@atspeed_s", "evaluate@atspeed_s", "report"}
    children = children_of(mlflow_client, parent_of(mlflow_client, run_id))
    assert stages <= children.keys()
    assert all(run.info.status == "FINISHED" for run in children.values())
    assert [alert["event"] for alert in stack.alerts.of_run(gate)] == ["challenger_refused"]


def stop_mlflow_for(stack: Stack, seconds: float) -> None:
    """No MLflow for a while."""
    stack.mlflow.stop()
    time.sleep(seconds)
    stack.mlflow.start()


def newest(client: Any) -> Any:
    """The version registered last."""
    return max(client.search_model_versions(f"name = '{RECOMMENDER}'"), key=lambda version: int(version.version))


def test_rollback_puts_the_previous_champion_back(stack: Stack, mlflow_client: Any) -> None:
    champion, previous = version_at(mlflow_client, "champion"), version_at(mlflow_client, "previous")
    run_id = stack.api.trigger("rollback", "rollback-1", dataset=DATASET)
    expect_success(stack, "rollback", run_id)
    assert version_at(mlflow_client, "champion").version == previous.version
    assert version_at(mlflow_client, "previous").version == champion.version
    stack.api.trigger("rollback", "rollback-2", dataset=DATASET)
    expect_success(stack, "rollback", "rollback-2")
    assert version_at(mlflow_client, "champion").version == champion.version


def test_a_failing_stage_is_retried_then_alerted(stack: Stack, mlflow_client: Any) -> None:
    stack.deployment.branch("broken")
    code = stack.deployment.folder / "tasks" / "warm_start.py"
    failing = "raise OSError('the file system is away')\n\n\n@app.command()"
    code.write_text(code.read_text().replace("@app.command()", failing))
    stack.deployment.commit("broken")
    stack.deployment.main()
    run_id = night(stack, "night-broken", 3, methods=ONE, revision="broken", force="all")
    assert stack.api.wait_for_run("nightly_retrain", run_id) == "failed"
    (task,) = [t for t in stack.api.tasks("nightly_retrain", run_id) if t["task_id"] == "warm_start"]
    assert (task["state"], task["try_number"]) == ("failed", 3)
    (alert,) = stack.alerts.of_run(run_id)
    assert (alert["task_id"], alert["try_number"]) == ("warm_start", 3)
    assert "the file system is away" in alert["reason"]
    parent = parent_of(mlflow_client, run_id)
    assert parent.info.status == "FAILED"
    assert "warm_start" in parent.data.tags["atspeed.failed_tasks"]


def test_a_mistake_in_the_feed_fails_at_once_and_says_where(stack: Stack) -> None:
    (stack.deployment.feed / f"{day(4)}.csv").write_text("user_id,item_id,rating,timestamp\nu1,i001,5,yesterday\n")
    run_id = night(stack, "night-mistake", 4, methods=ONE)
    assert stack.api.wait_for_run("nightly_retrain", run_id) == "failed"
    (task,) = [t for t in stack.api.tasks("nightly_retrain", run_id) if t["task_id"] == "ingest"]
    assert (task["state"], task["try_number"]) == ("failed", 1)
    (alert,) = stack.alerts.of_run(run_id)
    assert f"{day(4)}.csv" in alert["reason"]
    assert f"nightly/{day(4)}" not in stack.deployment.tags()
    (stack.deployment.feed / f"{day(4)}.csv").unlink()


def test_a_sweep_compares_its_experiments_below_one_parent(stack: Stack, mlflow_client: Any) -> None:
    overrides = [{"align_draft.alpha": 0.2}, {"align_draft.alpha": 0.8}]
    revision = f"nightly/{day(2)}"
    params = {"dataset": DATASET, "methods": ONE, "overrides": overrides, "revision": revision}
    stack.api.trigger("experiment_sweep", "sweep-1", **params)
    expect_success(stack, "experiment_sweep", "sweep-1")
    parent = parent_of(mlflow_client, "sweep-1")
    assert parent.info.status == "FINISHED"
    assert "summary.md" in [file.path for file in mlflow_client.list_artifacts(parent.info.run_id)]


def test_two_runs_never_share_a_gpu_slot(stack: Stack) -> None:
    tasks = [
        task
        for dag_id in DAGS
        for run_id in ids(stack, dag_id)
        for task in stack.api.tasks(dag_id, run_id)
        if task["pool"] == "gpu" and task["state"] == "success" and task["end_date"]
    ]
    assert len({task["dag_id"] for task in tasks}) >= 3
    spans = sorted(map(seconds_of, tasks))
    assert len(spans) > 20
    assert all(end <= following for (_, end), (following, _) in itertools.pairwise(spans))


def test_a_fresh_clone_of_a_night_has_its_models_and_figures_byte_for_byte(stack: Stack, tmp_path: Path) -> None:
    tag, clone = f"nightly/{day(2)}", tmp_path / "clone"
    for command in (
        ["git", "clone", "--quiet", "--branch", tag, str(stack.deployment.folder), str(clone)],
        [sys.executable, "-m", "dvc", "pull", "--quiet"],
    ):
        folder = clone if clone.exists() else tmp_path
        environment = {**os.environ, "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
        subprocess.run(command, cwd=folder, env=environment, check=True)
    lock = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    outs = {out["path"]: out for stage in lock.values() for out in stage["outs"]}
    assert {"models/target", "models/drafts/sft", "models/drafts/atspeed_s", "results/metrics.json"} <= outs.keys()
    for path, out in outs.items():
        assert md5_of(clone / path) == out["md5"], path
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status"], cwd=clone, env=environment, capture_output=True, text=True, check=True
    )
    assert "up to date" in status.stdout


def md5_of(path: Path) -> str:
    """DVC's digest of a file, or of a folder: that of the JSON list of its files' digests."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = [{"md5": md5_of(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listed.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


@pytest.fixture
def served(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """`mlflow models serve` of the champion, on loopback; its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{RECOMMENDER}@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": stack.mlflow.url,
        "ATSPEED_HOME": str(stack.home),
        "OMP_NUM_THREADS": "1",
    }
    server = Server("mlflow models serve", command, environment, tmp_path / "serve.log")
    server.start()
    server.wait_for(lambda: answers(f"http://127.0.0.1:{port}/ping"), 180)
    yield f"http://127.0.0.1:{port}"
    server.stop()


def test_the_served_champion_answers_like_the_recommender(stack: Stack, mlflow_client: Any, served: str) -> None:
    from atspeed_core import Recommender

    tags = version_at(mlflow_client, "champion").tags
    model = next((stack.home / "models").glob(f"{tags['atspeed.commit']}-{tags['atspeed.method']}*"))
    recommender = Recommender.load(model / "target", model / "draft", model / "identifiers" / "identifiers.json")
    history = ["i001", "i003", "i005", "i007"]
    for options in ({"k": 5}, {"k": 3, "verification": "none"}, {"k": 2, "allowed_items": ["i009", "i010", "i011"]}):
        body = {"dataframe_split": {"columns": ["history"], "data": [[history]]}, "params": options}
        answer = requests.post(f"{served}/invocations", json=body, timeout=120)
        assert answer.ok, answer.text
        expected = recommender.recommend([history], **options)
        assert answer.json()["predictions"][0]["items"] == expected.items[0]
