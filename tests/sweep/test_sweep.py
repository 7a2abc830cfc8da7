"""experiment_sweep on a real git repository with DVC and a real MLflow server; the stages are small stand-ins."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from tasks.deployment.checkout import checkout_of
from tasks.sweep import close_sweep, plan_sweep
from tests.in_process import answer_of, refusal_of
from tests.mlflow_server import mlflow_server

ROOT = Path(__file__).resolve().parents[2]
CHANGES = '[{}, {"align_draft.alpha": 0.3}]'
STAGE = """
import json, os, sys
from pathlib import Path
from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from tasks.stage import stage

name, out, method = [*sys.argv[1:], None][:3]
with stage(name, Path("params.yaml"), method=method) as run:
    with open(os.environ["STAGES_RUN"], "a") as log:
        log.write(f"{name}{'@' + method if method else ''}\\n")
    alpha = run.params.align_draft.alpha
    if name == "align_draft" and Path(os.environ["UNLUCKY"]).exists() and alpha == 0.3:
        raise UserError("alpha 0.3 is out of luck today")
    made = {"days": sorted(day.name for day in Path("data/interactions").iterdir()), "alpha": alpha}
    if name == "report":
        (draft,) = Path("models/drafts").iterdir()
        figures = {"accepted_steps": json.loads(draft.read_text())["alpha"] * 2, "walltime_speedup": 1.5, "recall": 0.1}
        made["methods"] = {draft.name: {"strict": {k: figures for k in ("1", "10", "20")}}}
    run.metric("alpha", alpha)
    write_json(Path(out), made)
"""
WIRING = """
stages:
  prepare_data:
    cmd: python stand_in.py prepare_data data/processed
    params: [prepare_data]
    deps: [stand_in.py, data/interactions]
    outs: [data/processed]
  cache_topk:
    cmd: python stand_in.py cache_topk data/topk_cache
    params: [cache_topk]
    deps: [stand_in.py, data/processed]
    outs: [data/topk_cache]
  evaluate_target:
    cmd: python stand_in.py evaluate_target results/target.json
    params: [evaluate]
    deps: [stand_in.py, data/processed]
    outs: [results/target.json]
  align_draft:
    matrix:
      method: [sft, atspeed_s, atspeed_r]
    cmd: python stand_in.py align_draft models/drafts/${item.method} ${item.method}
    params: [align_draft]
    deps: [stand_in.py, data/topk_cache]
    outs: ["models/drafts/${item.method}"]
  report:
    cmd: python stand_in.py report results/metrics.json
    deps: [stand_in.py, results/target.json, models/drafts/sft, models/drafts/atspeed_s, models/drafts/atspeed_r]
    outs:
      - results/metrics.json:
          cache: false
"""


def make_repository(folder: Path, remote: Path) -> None:
    """A repository like ours, with a day of interactions in the remote and not in git."""
    from dvc.repo import Repo

    (folder / "data" / "interactions").mkdir(parents=True)
    (folder / "data" / "interactions" / "2016-10-05.parquet").write_text("a day")
    (folder / "presets").mkdir()
    (folder / "presets" / "toy.yaml").write_text("description: toy\nparams: {prepare_data: {dataset: toy}}\n")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / "dvc.yaml").write_text(WIRING)
    (folder / "stand_in.py").write_text(STAGE)
    (folder / ".gitignore").write_text(
        "/models/\n/results/\n/outbox/\n/data/processed\n/data/topk_cache\n__pycache__/\n"
    )
    git(folder, "init", "--quiet")
    with Repo.init(str(folder)) as repo:
        with repo.config.edit("repo") as settings:
            settings["remote"]["nightly"] = {"url": str(remote)}
            settings["core"]["remote"] = "nightly"
        repo.add([str(folder / "data" / "interactions")])
        repo.push()
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--message", "start")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server with a store of its own."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def deployment(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a deployment: repository/, home/, stages_run; the environment names them."""
    folder = tmp_path_factory.mktemp("deployment")
    make_repository(folder / "repository", folder / "home" / "dvc-remote")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server)
        patch.setenv("ATSPEED_HOME", str(folder / "home"))
        patch.setenv("ATSPEED_REPOSITORY", str(folder / "repository"))
        patch.setenv("STAGES_RUN", str(folder / "stages_run"))
        patch.setenv("UNLUCKY", str(folder / "unlucky"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.delenv("ATSPEED_ANSWER", raising=False)
        patch.chdir(folder / "repository")
        yield folder


def plan(run_id: str, methods: str = "sft", overrides: str = CHANGES) -> list[str]:
    options = ["--dataset", "toy", "--methods", methods, "--overrides", overrides]
    return [one["name"] for one in answer_of(plan_sweep, "--run-id", run_id, *options)["experiments"]]


def run_all(run_id: str, names: list[str]) -> list[int]:
    """Exit codes of the experiments, run at the same time."""
    command = [sys.executable, "-m", "tasks.sweep.run_experiment", f"--run-id={run_id}"]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*command, f"--name={name}"], **pipes) for name in names]
    for process in started:
        sys.stderr.write(process.communicate(timeout=200)[1])  # shown where a test fails
    return [process.returncode for process in started]


def stages_run(deployment: Path) -> list[str]:
    return (deployment / "stages_run").read_text().split()


def parent_of(run_id: str) -> Any:
    (found,) = [run for run in runs() if run.data.tags.get("atspeed.pipeline_run") == run_id and not below(run)]
    return found


def below(run: Any) -> str | None:
    parent: str | None = run.data.tags.get("mlflow.parentRunId")
    return parent


def runs() -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    known_experiment = client.get_experiment_by_name("atspeed-nightly")
    return list(client.search_runs([known_experiment.experiment_id])) if known_experiment else []


@pytest.fixture(scope="module")
def sweep(deployment: Path) -> list[str]:
    """Names of two experiments; the second one failed, then the sweep was closed."""
    (deployment / "unlucky").touch()
    names = plan("manual__1")
    assert run_all("manual__1", names) == [0, 2]
    answer_of(close_sweep, "--run-id", "manual__1")
    return names


def test_experiments_are_named_by_method_and_change(sweep: list[str]) -> None:
    assert sweep == ["01-sft", "02-sft-alpha=0.3"]


def test_what_experiments_share_is_run_once(sweep: list[str], deployment: Path) -> None:
    ran = stages_run(deployment)
    assert sorted(ran) == [
        "align_draft@sft",
        "align_draft@sft",
        "cache_topk",
        "evaluate_target",
        "prepare_data",
        "report",
    ]


def test_a_failure_is_listed_and_loses_nothing(sweep: list[str]) -> None:
    from mlflow.tracking import MlflowClient

    folder, parent = plan_sweep.folder_of("manual__1"), parent_of("manual__1")
    metrics = json.loads((folder / "01-sft" / "metrics.json").read_text())
    assert metrics["days"] == ["2016-10-05.parquet"]  # pulled from the remote: the repository does not hold it
    summary = (folder / "summary.md").read_text()
    assert "| 01-sft | sft | 10 |" in summary
    assert "- failed: 02-sft-alpha=0.3: " in summary
    assert "exit code 2" in summary
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["atspeed.failed_experiments"] == "02-sft-alpha=0.3"
    files = MlflowClient().list_artifacts(parent.info.run_id)
    assert {file.path for file in files} == {"summary.md", "comparison.csv", "comparison.html"}


def test_all_runs_are_below_the_one_parent(sweep: list[str]) -> None:
    parent = parent_of("manual__1")
    children = {run.info.run_name: run for run in runs() if below(run) == parent.info.run_id}
    assert {*sweep, "prepare_data", "align_draft@sft", "report"} <= children.keys()
    assert children["align_draft@sft"].data.tags["dvc.experiment"] == "01-sft"
    assert children["01-sft"].info.status == "FINISHED"
    assert children["01-sft"].data.metrics["walltime_speedup/at_10"] == 1.5
    assert children["02-sft-alpha=0.3"].info.status == "FAILED"
    assert children["02-sft-alpha=0.3"].data.params["align_draft.alpha"] == "0.3"


def test_a_cleared_failure_is_run_again_and_nothing_else(sweep: list[str], deployment: Path) -> None:
    (deployment / "unlucky").unlink()
    before, recorded = stages_run(deployment), len(runs())
    assert plan("manual__1") == sweep
    assert run_all("manual__1", sweep) == [0, 0]
    assert stages_run(deployment)[len(before) :] == ["align_draft@sft", "report"]
    assert answer_of(close_sweep, "--run-id", "manual__1")["failed"] == []
    table = pd.read_csv(plan_sweep.folder_of("manual__1") / "comparison.csv")
    assert table.groupby("experiment")["accepted_steps"].first().to_dict() == {"01-sft": 1.8, "02-sft-alpha=0.3": 0.6}
    assert sorted(table["k"].unique()) == [1, 10, 20]
    assert len(runs()) == recorded + 2  # the stages that ran, and no other
    assert not checkout_of(f"manual__1~{sweep[0]}").exists()
    answer_of(close_sweep, "--run-id", "manual__1")
    assert len(runs()) == recorded + 2


def test_records_wait_for_a_server_that_is_down(deployment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = plan("manual__2", overrides='[{"align_draft.alpha": 0.7}]')
    address = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run_all("manual__2", names) == [75]
    assert CliRunner().invoke(close_sweep.app, ["--run-id", "manual__2"]).exit_code == 75
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    before = stages_run(deployment)
    assert run_all("manual__2", names) == [0]
    assert stages_run(deployment) == before
    parent = parent_of("manual__2")
    assert sorted(run.info.run_name for run in runs() if below(run) == parent.info.run_id) == [
        "align_draft@sft",
        "report",
    ]


def test_mistakes_are_named_before_anything_starts(deployment: Path) -> None:
    recorded = len(runs())
    options = ["--run-id", "manual__3", "--dataset", "toy", "--methods"]
    for methods, overrides, message in (
        ("sft", '[{"align_draft.alpa": 0.3}]', "unknown key 'align_draft.alpa'; did you mean 'alpha'?"),
        ("sft", '[{}, {"align_draft.alpha": 3}]', "'align_draft.alpha': Input should be less than or equal to 1"),
        ("sft", '{"align_draft.alpha": 3}', "not a JSON list of objects"),
        ("unheard", "[{}]", "unknown 'unheard'"),
    ):
        assert message in refusal_of(plan_sweep, *options, methods, "--overrides", overrides)
    assert "not a branch, tag or commit" in refusal_of(plan_sweep, *options, "sft", "--revision", "nowhere")
    assert "plan the sweep first" in refusal_of(close_sweep, "--run-id", "manual__3")
    assert len(runs()) == recorded


def test_a_run_id_belongs_to_one_sweep(sweep: list[str]) -> None:
    options = ["--run-id", "manual__1", "--dataset", "toy", "--methods", "atspeed_s"]
    assert "was planned with other experiments" in refusal_of(plan_sweep, *options)


def test_a_sweep_works_on_the_newest_night(deployment: Path) -> None:
    night = deployment / "repository"
    preset = yaml.safe_load((night / "presets" / "toy.yaml").read_text())
    (night / "presets" / "toy.yaml").write_text(yaml.safe_dump({**preset, "methods": ["atspeed_r"]}))
    git(night, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--all", "--quiet", "--message", "night")
    git(night, "tag", "nightly-toy/2016-10-05")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=night, capture_output=True, text=True).stdout.strip()
    git(night, "checkout", "--quiet", "HEAD~1")
    answer = answer_of(plan_sweep, "--run-id", "manual__4", "--dataset", "toy")
    assert answer["commit"] == commit
