"""DVC stages under Airflow: side by side, killed, tried again, forced; real DVC and real processes."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tasks.deployment.checkout import check_out, clone
from tasks.deployment.dvc_project import configure
from tasks.nightly.night import Night
from tasks.wire_methods import wire_methods
from tests.nightly.tiny_deployment import DATASET, NOBODY, Deployment, processes_in, wait_until

METHODS = ["sft", "atspeed_s"]
LONGEST_END = 20  # seconds until what belonged to a killed process is gone
SHELLS = ("sh", "bash", "dash")  # whether one stays above the stage is the shell's choice


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    toy = Deployment(tmp_path, NOBODY)
    for name in ("ATSPEED_HOME", "ATSPEED_REPOSITORY"):
        monkeypatch.setenv(name, toy.settings[name])
    return toy


@pytest.fixture
def checkout(deployment: Deployment) -> Iterator[Path]:
    """The checkout of an opened night; nothing works in it when the test is over."""
    yield open_checkout(deployment)
    for process in processes_in(deployment.folder / "checkout"):
        process.kill()


def open_checkout(deployment: Deployment, **facts: object) -> Path:
    """What open_run makes, without its run in MLflow."""
    folder = deployment.folder / "checkout"
    clone(folder)
    commit = check_out(None, folder)
    configure(folder)
    wire_methods(folder, METHODS)
    common = {"run_id": "night", "date": "2016-10-05", "dataset": DATASET, "methods": METHODS, "commit": commit}
    Night.model_validate({**common, "tag": "nightly/2016-10-05", **facts}).save(folder)
    return folder


def remote_files(deployment: Deployment) -> set[str]:
    return {path.name for path in (deployment.home / "dvc-remote").rglob("*") if path.is_file()}


def locked(checkout: Path) -> set[str]:
    return set(yaml.safe_load((checkout / "dvc.lock").read_text())["stages"])


def test_a_stage_runs_once_and_its_outputs_are_in_the_remote(deployment: Deployment, checkout: Path) -> None:
    first = deployment.answer("run_stage", "prepare_data", folder=checkout)
    assert (first["stage"], first["ran"]) == ("prepare_data", True)
    assert len(remote_files(deployment)) == 2  # the file and the listing of its folder
    again = deployment.answer("run_stage", "prepare_data", folder=checkout)
    assert again["ran"] is False
    assert deployment.told("start") == ["data/processed"]
    record = json.loads(next(checkout.glob("outbox/*/record.json")).read_text())
    assert record["pipeline_run"] == "night"


def test_two_methods_run_side_by_side_in_one_checkout(deployment: Deployment, checkout: Path) -> None:
    deployment.run("run_stage", "prepare_data", folder=checkout)
    deployment.say("pause")
    started = [deployment.start("run_stage", "align_draft", "--method", m, folder=checkout) for m in METHODS]
    for process in started:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
    assert max(deployment.times("start")) < min(deployment.times("end"))
    assert locked(checkout) == {"prepare_data", "align_draft@sft", "align_draft@atspeed_s"}
    for method in METHODS:
        assert deployment.answer("run_stage", "align_draft", "--method", method, folder=checkout)["ran"] is False


@pytest.mark.parametrize(
    ("fault", "code", "last"),
    [("mistake", 2, "choose less than 1"), ("busy", 75, "the port is taken; run again"), ("defect", 1, "a defect")],
)
def test_the_exit_code_and_the_last_line_are_the_stages_own(
    deployment: Deployment, checkout: Path, fault: str, code: int, last: str
) -> None:
    deployment.say(fault)
    output = deployment.run("run_stage", "prepare_data", folder=checkout, code=code)
    assert output.splitlines()[-1].endswith(last)
    deployment.say()
    assert deployment.answer("run_stage", "prepare_data", folder=checkout)["ran"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare"], "not a stage of dvc.yaml; known: prepare_data, align_draft"),
        (["align_draft"], "--method must be one of sft, atspeed_s"),
        (["align_draft", "--method", "atspeed_r"], "--method must be one of sft, atspeed_s"),
        (["prepare_data", "--method", "sft"], "omit --method"),
    ],
)
def test_a_stage_that_the_night_does_not_have_is_a_mistake(
    deployment: Deployment, checkout: Path, arguments: list[str], message: str
) -> None:
    assert message in deployment.run("run_stage", *arguments, folder=checkout, code=2)


@pytest.mark.parametrize("victim", ["run_stage", "stage", "run_stage by SIGTERM"])
def test_a_killed_task_leaves_nothing_running_and_its_retry_succeeds(
    deployment: Deployment, checkout: Path, victim: str
) -> None:
    deployment.say("slow")
    task = deployment.start("run_stage", "prepare_data", folder=checkout)
    wait_until(lambda: deployment.told("waits") != [], "the stage did not start")
    running = [process for process in processes_in(checkout) if process.name() not in SHELLS]
    assert len(running) == 3  # run_stage, the stage, and what that started
    if victim == "stage":
        (stage,) = [process for process in running if "stages.py" in process.cmdline()]
        stage.kill()
    else:
        task.send_signal(signal.SIGTERM if "SIGTERM" in victim else signal.SIGKILL)
    task.communicate(timeout=60)
    assert task.returncode == {"stage": 1, "run_stage": -signal.SIGKILL}.get(victim, 75)
    wait_until(lambda: not processes_in(checkout), "something still runs", seconds=LONGEST_END)
    deployment.say()
    assert deployment.answer("run_stage", "prepare_data", folder=checkout)["ran"] is True


def test_the_end_of_the_airflow_task_ends_the_stage(deployment: Deployment, checkout: Path) -> None:
    deployment.say("slow")
    starter = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "tasks.nightly.run_stage", "prepare_data"], start_new_session=True)
"""
    environment = {**os.environ, **deployment.settings, "ATSPEED_ANSWER": str(deployment.folder / "answer.json")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    airflow = psutil.Popen([sys.executable, "-c", starter], cwd=checkout, env=environment)
    wait_until(lambda: deployment.told("waits") != [], "the stage did not start")
    airflow.kill()
    airflow.wait()
    wait_until(lambda: not processes_in(checkout), "something still runs", seconds=LONGEST_END)


def test_what_a_kill_left_half_written_or_locked_stops_no_retry(deployment: Deployment, checkout: Path) -> None:
    deployment.run("run_stage", "prepare_data", folder=checkout)
    whole = (checkout / "dvc.lock").read_text()
    (checkout / "dvc.lock").write_text(whole[: len(whole) // 2])
    (checkout / ".dvc" / "tmp" / "rwlock").write_text('{"write": {"/a')
    assert deployment.answer("run_stage", "prepare_data", folder=checkout)["ran"] is False
    assert (checkout / "dvc.lock").read_text() == whole
    module = Path(__file__).resolve().parents[2] / "tasks" / "nightly" / "run_stage.py"
    holder = {"pid": os.getpid(), "cmd": f"{module} align_draft --method sft"}  # an id that is in use again
    lock = {"write": {str(checkout / "models" / "drafts" / "sft"): holder}, "read": {}}
    (checkout / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(lock))
    assert deployment.answer("run_stage", "align_draft", "--method", "sft", folder=checkout)["ran"] is True


def test_what_is_up_to_date_but_not_here_is_fetched_where_it_is_needed(deployment: Deployment, checkout: Path) -> None:
    deployment.run("run_stage", "prepare_data", folder=checkout)
    for gone in (checkout / "data" / "processed", deployment.home / "dvc-cache"):
        shutil.rmtree(gone)
    assert deployment.answer("run_stage", "prepare_data", folder=checkout)["ran"] is False
    assert not (checkout / "data" / "processed").exists()
    assert deployment.answer("run_stage", "align_draft", "--method", "sft", folder=checkout)["ran"] is True
    assert (checkout / "data" / "processed" / "file").exists()


def test_a_forced_stage_runs_once_in_a_night_even_when_its_push_fails(deployment: Deployment) -> None:
    checkout = open_checkout(deployment)
    deployment.run("run_stage", "prepare_data", folder=checkout)
    shutil.rmtree(checkout / "data" / "processed")
    forced = {"run_id": "night", "date": "2016-10-05", "dataset": DATASET, "methods": METHODS, "commit": "x"}
    Night.model_validate({**forced, "tag": "nightly/2016-10-05", "force": "align_draft"}).save(checkout)
    shutil.move(deployment.home / "dvc-remote", deployment.home / "aside")
    (deployment.home / "dvc-remote").touch()  # a folder is wanted there
    deployment.run("run_stage", "align_draft", "--method", "sft", folder=checkout, code=75)
    (deployment.home / "dvc-remote").unlink()
    shutil.move(deployment.home / "aside", deployment.home / "dvc-remote")
    before = len(remote_files(deployment))
    assert deployment.answer("run_stage", "align_draft", "--method", "sft", folder=checkout)["ran"] is False
    assert deployment.told("end") == ["data/processed", "models/drafts/sft"]
    assert len(remote_files(deployment)) == before + 2


def test_force_runs_what_is_up_to_date_and_fetches_what_it_reads(deployment: Deployment) -> None:
    checkout = open_checkout(deployment, force="all")
    for _ in range(2):
        deployment.run("run_stage", "prepare_data", folder=checkout)
    assert deployment.told("end") == ["data/processed"]
    for gone in (checkout / "data" / "processed", deployment.home / "dvc-cache"):
        shutil.rmtree(gone)
    assert deployment.answer("run_stage", "align_draft", "--method", "sft", folder=checkout)["ran"] is True


def test_a_dry_run_says_what_would_run_and_runs_nothing(deployment: Deployment) -> None:
    checkout = open_checkout(deployment, dry_run=True)
    for arguments in (["prepare_data"], ["align_draft", "--method", "sft"], ["report"]):
        output = deployment.run("run_stage", *arguments, folder=checkout)
        assert f"dry run: {'@'.join(arguments[::2])} would run" in output
    assert deployment.told("start") == []
    assert not (checkout / "dvc.lock").exists()
    assert not (deployment.home / "dvc-remote").exists()
