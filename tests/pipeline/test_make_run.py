"""The whole pipeline on a little real data, through the real DVC, DeepSpeed and MLflow."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_project import METHODS, copy_project, write_data_and_params

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(900)]  # a start takes minutes on a busy machine

MEASURED = ("results/", "models/plans/", "data/reference/times.parquet")  # these hold times, which no two runs share


class Project:
    """A copy of the project with a git repository of its own."""

    def __init__(self, folder: Path) -> None:
        """Copy the project into `folder`, with little data and small models."""
        self.folder = folder
        copy_project(folder)
        (folder / "dvc.lock").unlink(missing_ok=True)
        write_data_and_params(folder)
        self.run("git", "init", "--quiet")
        self.commit("start")

    def environment(self) -> dict[str, str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "ATSPEED"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        site = str(self.folder / ".dvc" / "tmp" / "site")
        one_thread = {"OMP_NUM_THREADS": "1"}  # a second one gains nothing here, and waits where the machine is busy
        return {**env, **one_thread, "PATH": path, "PYTHONPATH": "", "DVC_SITE_CACHE_DIR": site}

    def run(self, *command: str, timeout: float = 850) -> str:
        """Run a command that has to succeed; returns its output."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        name = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        self.run("git", *name, "commit", "--quiet", "--message", message)

    def metrics(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "results" / "metrics.json").read_text()))

    def locked(self, stage: str) -> Any:
        return yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"][stage]

    def has_locked(self, stage: str) -> bool:
        lock = self.folder / "dvc.lock"
        return lock.exists() and stage in yaml.safe_load(lock.read_text())["stages"]

    def mlflow_runs(self) -> list[str]:
        with sqlite3.connect(self.folder / "mlflow.db") as store:
            return [name for (name,) in store.execute("select name from runs order by start_time")]


def stages_run(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after its first whole run."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.run(sys.executable, "-m", "tasks.pipeline")
    project.commit("first run")
    return project


def test_the_figures_are_those_of_the_stages_called_one_by_one(project: Project, tiny_pipeline: Path) -> None:
    """What tests/tasks/test_all_stages.py asserts of those holds for `make run` as well."""
    expected = json.loads((tiny_pipeline / "results" / "metrics.json").read_text())
    assert without_times(project.metrics()) == without_times(expected)


def test_every_stage_is_one_run_below_one_parent(project: Project) -> None:
    stages = [f"{stage}@{method}" for stage in ("align_draft", "evaluate") for method in METHODS]
    stages += ["warm_start", "prepare_data", "build_identifiers", "finetune_target", "cache_topk", "evaluate_target"]
    stages += ["report"]
    assert sorted(project.mlflow_runs()) == sorted([*stages, "pipeline small"])


def test_nothing_is_left_to_do_afterwards(project: Project) -> None:
    before = project.mlflow_runs()
    output = project.run(sys.executable, "-m", "tasks.pipeline")
    assert stages_run(output) == set()
    assert "Data and pipelines are up to date." in output
    assert (project.folder / "results" / "summary.md").read_text() in output
    assert project.mlflow_runs() == before
    assert project.run("git", "status", "--porcelain") == ""


def test_work_repeated_by_force_is_not_recorded_again(project: Project) -> None:
    before = project.mlflow_runs()
    for stage in ("prepare_data", "align_draft@sft"):
        output = project.run("dvc", "repro", "--force", "--single-item", stage)
        assert stages_run(output) == {stage}
    assert project.mlflow_runs() == before
    assert project.run("git", "status", "--porcelain") == ""  # and its outputs are the same, byte for byte


def test_a_killed_training_resumes_and_ends_with_the_same_target(project: Project) -> None:
    expected = project.locked("finetune_target")["outs"]
    command = ["dvc", "repro", "--force", "--single-item", "finetune_target"]
    killed = subprocess.Popen(
        command, cwd=project.folder, env=project.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_a_checkpoint(project.folder / "checkpoints", killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (project.folder / "models" / "target").exists()
    project.run(*command)
    assert project.locked("finetune_target")["outs"] == expected


def wait_for_a_checkpoint(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while not (folder.exists() and any(path.is_file() for path in folder.rglob("*"))):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)


def test_a_pipeline_killed_once_in_every_stage_ends_with_the_same_results(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Project(tmp_path_factory.mktemp("killed"))
    stages = list(yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"])
    for stage in stages:
        if not other.has_locked(stage):  # drafts run side by side: it may have ended while another was waited for
            run_until_stage_and_kill(other, stage)
    other.run(sys.executable, "-m", "tasks.pipeline")
    for stage in stages:
        for mine, theirs in zip(other.locked(stage)["outs"], project.locked(stage)["outs"], strict=True):
            if not mine["path"].startswith(MEASURED):
                assert mine == theirs
    assert without_times(other.metrics()) == without_times(project.metrics())


def run_until_stage_and_kill(project: Project, stage: str) -> None:
    """Start the pipeline and send SIGKILL a second after the start of `stage`."""
    log = project.folder / "killed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.pipeline"],
            cwd=project.folder,
            env=project.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 120
    while f"Running stage '{stage}'" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.wait()


def without_times(metrics: Any) -> Any:
    """The figures that depend on weights and data alone; whether a plan speculates depends on times, too."""
    if isinstance(metrics, dict):
        timed = ("walltime", "latency", "baseline_latency", "load_average", "plans", "speculated")
        return {key: without_times(value) for key, value in metrics.items() if not key.startswith(timed)}
    return metrics


def test_an_experiment_reruns_what_depends_on_the_changed_setting(project: Project) -> None:
    output = project.run("dvc", "exp", "run", "-S", "align_draft.alpha=0.3", "-S", "evaluate.ks=[1,2]")
    again = {f"{stage}@{method}" for stage in ("align_draft", "evaluate") for method in METHODS}
    assert stages_run(output) == {*again, "evaluate_target", "report"}
    assert list(project.metrics()["methods"]["sft"]["strict"]) == ["1", "2"]


def test_a_mistake_in_the_params_stops_before_anything_is_touched(project: Project) -> None:
    path = project.folder / "params.yaml"
    good = path.read_text()
    path.write_text(good.replace("max_history:", "max_histroy:"))
    done = subprocess.run(
        [sys.executable, "-m", "tasks.evaluate", "--method", "sft"],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
    )
    path.write_text(good)
    assert done.returncode == 2
    assert "did you mean 'max_history'?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
