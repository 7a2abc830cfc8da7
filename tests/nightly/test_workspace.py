"""Opening, committing and closing a night: real git, DVC and MLflow, stages that take no time."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.files import write_json
from tasks.deployment.checkout import checkout_of, safe_name
from tasks.nightly.close_run import KEEP_DAYS, close_run
from tasks.nightly.night import load_night
from tasks.nightly.open_run import NightOptions, open_night
from tasks.tracking import waiting
from tests.mlflow_server import mlflow_server
from tests.nightly.tiny_deployment import DATASET, NOBODY, PRESET, Deployment, git

if TYPE_CHECKING:
    from mlflow.entities import Run

DAY = "2016-10-05"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def deployment(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment that this process belongs to as well, with an experiment and models of its own."""
    toy = Deployment(tmp_path, server)
    for name, value in toy.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.chdir(toy.project)
    return toy


def opened(run_id: str = "scheduled__2016-10-05T02:00:00+00:00", date: str = DAY, **options: Any) -> dict[str, Any]:
    return open_night(NightOptions(**{"run_id": run_id, "date": date, "dataset": DATASET, "methods": [], **options}))


def run_stages(deployment: Deployment, checkout: Path, methods: tuple[str, ...] = ("sft", "atspeed_s")) -> None:
    deployment.run_stage_here("prepare_data", folder=checkout)
    for method in methods:
        deployment.run_stage_here("align_draft", "--method", method, folder=checkout)
    deployment.run_stage_here("report", folder=checkout)


def parents(experiment: str) -> "list[Run]":
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    known_experiment = client.get_experiment_by_name(experiment)
    runs = client.search_runs([known_experiment.experiment_id]) if known_experiment else []
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def register(dataset: str, date: str, commit: str, **tags: str) -> str:
    """A version of the recommender, as register_challenger leaves it."""
    from mlflow.tracking import MlflowClient

    client, name = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]), f"atspeed-{dataset}-recommender"
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    run = client.create_run("0")
    facts = {"atspeed.date": date, "atspeed.commit": commit, "atspeed.method": "sft", **tags}
    version = client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id, tags=facts)
    return str(version.version)


def set_champion(dataset: str, version: str) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    client.set_registered_model_alias(f"atspeed-{dataset}-recommender", "champion", version)


# Opening


def test_a_night_gets_a_checkout_of_its_own_and_a_run_in_mlflow(deployment: Deployment) -> None:
    commit = git(deployment.project, "rev-parse", "HEAD")
    (deployment.project / "source.txt").write_text("changed, not committed")
    arguments = ["--run-id=manual__1", f"--date={DAY}", f"--dataset={DATASET}", "--methods=atspeed_s,sft", "--gate={}"]
    answer = deployment.answer("open_run", *arguments, folder=deployment.project)
    (run,) = parents(os.environ["MLFLOW_EXPERIMENT_NAME"])
    checkout = Path(answer.pop("checkout"))
    assert answer == {
        "methods": ["sft", "atspeed_s"],
        "date": DAY,
        "commit": commit,
        "warm_start": False,
        "mlflow_run_id": run.info.run_id,
    }
    assert checkout.parent == deployment.home / "checkouts"
    assert git(checkout, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD"  # detached
    assert (checkout / "source.txt").read_text() == "interactions "
    night = load_night(checkout)
    assert (night.tag, night.base_tag, night.champion) == (f"nightly/{DAY}", None, None)
    assert (run.info.status, run.info.run_name) == ("RUNNING", f"night {DAY} {DATASET}")
    assert run.data.tags["atspeed.pipeline_run"] == "manual__1"


def test_the_presets_params_and_methods_are_those_of_the_checkout(deployment: Deployment) -> None:
    checkout = Path(opened()["checkout"])
    params = yaml.safe_load((checkout / "params.yaml").read_text())
    before = yaml.safe_load((deployment.project / "params.yaml").read_text())
    assert list(params) == list(before)
    assert params["prepare_data"] == {**before["prepare_data"], "dataset": DATASET, "k_core": 2}
    assert params["warm_start"] == {"commit": None}
    wiring = yaml.safe_load((checkout / "dvc.yaml").read_text())["stages"]
    assert wiring["align_draft"]["matrix"]["method"] == ["sft", "atspeed_s"]
    assert wiring["report"]["deps"] == ["models/drafts/sft", "models/drafts/atspeed_s"]


def test_data_that_the_code_commit_knows_and_nobody_has_are_not_taken_for_up_to_date(deployment: Deployment) -> None:
    elsewhere = {"cmd": "echo", "outs": [{"path": "models/target", "md5": "0" * 32, "size": 1}]}
    locked = {"schema": "2.0", "stages": {"finetune_target": elsewhere}}
    (deployment.project / "dvc.lock").write_text(yaml.safe_dump(locked))
    git(deployment.project, "add", "--force", "dvc.lock")
    git(deployment.project, "commit", "--quiet", "--message", "run elsewhere")
    assert not (Path(opened()["checkout"]) / "dvc.lock").exists()


def test_opening_again_answers_the_same_and_leaves_the_checkout_alone(deployment: Deployment) -> None:
    first = opened()
    (Path(first["checkout"]) / "data").mkdir()
    deployment.commit("newer code")
    assert opened() == first
    assert (Path(first["checkout"]) / "data").exists()
    assert len(parents(os.environ["MLFLOW_EXPERIMENT_NAME"])) == 1
    with pytest.raises(UserError, match=f"was opened for {DAY} of {DATASET}, not for 2016-10-06"):
        opened(date="2016-10-06")


def test_a_run_opened_after_it_was_closed_finds_the_same_facts(deployment: Deployment) -> None:
    first = opened()
    checkout = Path(first["checkout"])
    before = [(checkout / name).read_bytes() for name in ("night.json", "params.yaml", "dvc.yaml")]
    close_run("scheduled__2016-10-05T02:00:00+00:00", "success", [])
    assert not checkout.exists()
    git(deployment.project, "tag", "nightly/2016-10-04")
    deployment.write_preset({**PRESET, "methods": ["atspeed_r"]})
    deployment.commit("newer code")
    assert opened() == first
    assert [(checkout / name).read_bytes() for name in ("night.json", "params.yaml", "dvc.yaml")] == before
    (run,) = parents(os.environ["MLFLOW_EXPERIMENT_NAME"])
    assert run.info.status == "RUNNING"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"date": "2016-02-30"}, "not a day"),
        ({"date": "20161005"}, "write it like 2016-10-05"),
        ({"date": "2999-01-01"}, "is in the future"),
        ({"dataset": "unknown"}, "no such preset; known: toy"),
        ({"methods": ["unheard"]}, "unknown 'unheard'; known: sft"),
        ({"revision": "no-branch"}, "'no-branch': not a branch, tag or commit"),
        ({"force": "prepare"}, "no such stage; known: all, prepare_data"),
        ({"gate": {"tolerence": 1}}, "--gate: unknown key 'tolerence'; did you mean 'tolerance'?"),
        ({"run_id": "a/../b"}, "use only letters, digits"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing_behind(
    deployment: Deployment, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        opened(**options)
    assert not (deployment.home / "checkouts").exists() or not list((deployment.home / "checkouts").iterdir())
    assert parents(os.environ["MLFLOW_EXPERIMENT_NAME"]) == []


def test_a_preset_with_a_wrong_param_is_refused_before_a_server_is_asked(deployment: Deployment) -> None:
    deployment.write_preset({**PRESET, "params": {"align_draft": {"alhpa": 0.5}}})
    deployment.commit("a wrong preset")
    os.environ["MLFLOW_TRACKING_URI"] = NOBODY
    with pytest.raises(UserError, match=r"^presets/toy.yaml over params.yaml: unknown key 'align_draft.alhpa'"):
        opened()


def test_while_mlflow_is_down_no_night_opens_and_afterwards_it_does(deployment: Deployment) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = NOBODY
    with pytest.raises(TemporaryError, match="no answer from"):
        opened()
    assert not list((deployment.home / "checkouts").iterdir())
    os.environ["MLFLOW_TRACKING_URI"] = deployment.server
    assert Path(opened()["checkout"]).exists()


def test_a_shared_folder_that_cannot_be_written_is_temporary(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (deployment.folder / "file").touch()
    monkeypatch.setenv("ATSPEED_HOME", str(deployment.folder / "file" / "home"))
    with pytest.raises(TemporaryError, match="cannot be written: Not a directory"):
        opened()


def test_a_password_in_the_remotes_address_is_refused(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATSPEED_DVC_REMOTE", "https://user:secret@host/x")  # pragma: allowlist secret
    with pytest.raises(UserError, match="contains a password") as error:
        opened()
    assert "secret" not in str(error.value)


def test_revision_is_a_branch_a_tag_or_a_commit_and_a_branch_that_moved_is_seen(deployment: Deployment) -> None:
    old = git(deployment.project, "rev-parse", "HEAD")
    git(deployment.project, "tag", "v1")
    git(deployment.project, "checkout", "--quiet", "-b", "other")
    new = deployment.commit("on a branch")
    git(deployment.project, "checkout", "--quiet", "main")
    commits = [opened(f"run-{name}", revision=name)["commit"] for name in ("v1", "other", new[:12], "main")]
    assert commits == [old, new, new, old]
    os.environ["ATSPEED_REVISION"] = "other"
    assert opened("run-environment")["commit"] == new
    del os.environ["ATSPEED_REVISION"]


def test_the_base_is_the_tag_with_the_greatest_date_before(deployment: Deployment) -> None:
    for tag in ("nightly/2016-10-01", "nightly/2016-09-30", "nightly/2016-10-05", "nightly/2016-10-09", "nightly/old"):
        git(deployment.project, "tag", tag)
    git(deployment.project, "tag", "nightly-other/2016-10-04")
    deployment.write_preset(PRESET, "other")
    deployment.commit("another data set")
    assert load_night(Path(opened()["checkout"])).base_tag == "nightly/2016-10-01"
    other = load_night(Path(opened("other", dataset="other", methods=["sft"])["checkout"]))
    assert (other.tag, other.base_tag) == (f"nightly-other/{DAY}", "nightly-other/2016-10-04")


def test_training_starts_from_the_champion_unless_it_has_seen_the_day(deployment: Deployment) -> None:
    first, second = deployment.commit("first night"), deployment.commit("second night")
    dataset = f"warm-{deployment.folder.name}"
    deployment.write_preset({**PRESET, "nightly": {"full_retrain_days": 7}}, dataset)
    deployment.commit("preset")

    def origin(date: str, **options: Any) -> str | None:
        answer = opened(f"run-{date}-{len(options)}", date, dataset=dataset, **options)
        params = yaml.safe_load((Path(answer["checkout"]) / "params.yaml").read_text())
        assert answer["warm_start"] == (params["warm_start"]["commit"] is not None)
        return str(params["warm_start"]["commit"]) if answer["warm_start"] else None

    assert origin("2016-10-01") is None  # no champion yet
    register(dataset, "2016-10-02", first, **{"atspeed.gate": "accepted"})
    register(dataset, "2016-10-03", first, **{"atspeed.gate": "refused"})
    set_champion(dataset, register(dataset, "2016-10-05", second, **{"atspeed.gate": "accepted"}))
    assert origin("2016-10-06") == second
    assert origin("2016-10-06", full_retrain=True) is None
    assert origin("2016-10-05") == first  # a backfill: the champion knows that day
    assert origin("2016-10-04") == first
    assert origin("2016-10-02") is None  # day number 736239 is no multiple of 7, and nobody is early enough
    assert origin("2016-10-09") is None  # a multiple of 7: the weekly retrain
    champion = load_night(checkout_of("run-2016-10-04-0")).champion
    assert champion is not None
    assert champion.commit == second  # what the gate compares with is the model in service


def test_a_dry_run_is_not_on_record(deployment: Deployment) -> None:
    assert opened(dry_run=True)["mlflow_run_id"] is None
    assert parents(os.environ["MLFLOW_EXPERIMENT_NAME"]) == []
    assert close_run("scheduled__2016-10-05T02:00:00+00:00", "success", []) == {"records_waiting": 0}


# Committing


def fresh_clone(deployment: Deployment, tag: str) -> Path:
    """The night as someone gets it who has the repository and the remote, and nothing else."""
    clone = deployment.folder / f"clone-{time.time_ns()}"
    git(deployment.folder, "clone", "--quiet", str(deployment.project), str(clone))
    git(clone, "checkout", "--quiet", tag)
    environment = {**os.environ, "DVC_SITE_CACHE_DIR": str(clone / ".dvc/tmp/site")}
    subprocess.run([sys.executable, "-m", "dvc", "pull", "--quiet"], cwd=clone, env=environment, check=True)
    return clone


def files_of(folder: Path) -> dict[str, bytes]:
    restored = [folder / name for name in ("data/processed", "models", "results")]
    files = [path for part in restored for path in part.rglob("*") if path.is_file() and path.name != ".gitignore"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_fresh_clone_of_the_tag_pulls_the_same_models_and_metrics(deployment: Deployment) -> None:
    checkout = Path(opened()["checkout"])
    run_stages(deployment, checkout)
    answer = deployment.answer("commit_night", folder=checkout)
    assert answer["tag"] == f"nightly/{DAY}"
    assert git(deployment.project, "rev-parse", f"nightly/{DAY}") == answer["commit"]
    expected = files_of(checkout)
    assert {"models/drafts/sft/file", "models/drafts/atspeed_s/file", "results/metrics.json"} <= expected.keys()
    shutil.rmtree(deployment.home / "dvc-cache")
    clone = fresh_clone(deployment, f"nightly/{DAY}")
    assert files_of(clone) == expected
    assert git(clone, "status", "--porcelain") == ""
    message = git(clone, "log", "-1", "--format=%an <%ae>%n%B")
    assert message.startswith(f"atspeed nightly <nightly@atspeed.invalid>\nNight {DAY} of toy\n")
    assert "sft: accepted_steps@10 2.0000, walltime_speedup@10 1.5000" in message
    assert git(deployment.project, "status", "--porcelain") == ""  # no branch of the deployment's moved


def test_committing_again_and_a_rerun_of_the_whole_night_change_nothing(deployment: Deployment) -> None:
    first = opened()
    checkout = Path(first["checkout"])
    run_stages(deployment, checkout)
    answer = deployment.answer("commit_night", folder=checkout)
    assert deployment.answer("commit_night", folder=checkout) == answer
    close_run("scheduled__2016-10-05T02:00:00+00:00", "success", [])
    assert opened() == first
    ran = len(deployment.told("start"))
    run_stages(deployment, checkout, ("atspeed_s", "sft"))
    assert deployment.told("start")[ran:] == ["results/metrics.json"]  # the others come from the run cache
    assert deployment.answer("commit_night", folder=checkout) == answer


def test_a_night_done_anew_moves_its_tag_and_loses_nothing(deployment: Deployment) -> None:
    checkout = Path(opened()["checkout"])
    run_stages(deployment, checkout)
    first = deployment.answer("commit_night", folder=checkout)["commit"]
    (deployment.project / "source.txt").write_text("other interactions ")
    code = deployment.commit("other source")
    again = Path(opened("manual__again")["checkout"])
    run_stages(deployment, again)
    second = deployment.answer("commit_night", folder=again)["commit"]
    assert git(deployment.project, "rev-parse", f"nightly/{DAY}") == second
    assert git(deployment.project, "log", "-1", "--format=%P", second).split() == [code, first]
    assert "OTHER" not in files_of(fresh_clone(deployment, first))["models/drafts/sft/file"].decode()


def test_no_tag_before_the_remote_holds_everything(deployment: Deployment) -> None:
    checkout = Path(opened()["checkout"])
    run_stages(deployment, checkout)
    lock = yaml.safe_load((checkout / "dvc.lock").read_text())
    digest = lock["stages"]["align_draft@sft"]["outs"][0]["md5"].removesuffix(".dir")
    for store in ("dvc-cache", "dvc-remote"):
        (found,) = (deployment.home / store).rglob(f"{digest[2:]}.dir")
        found.chmod(0o644)
        found.unlink()
    output = deployment.run("commit_night", folder=checkout, code=75)
    assert output.splitlines()[-1].endswith("the DVC remote lacks 1 files of this night, models/drafts/sft among them")
    assert git(deployment.project, "tag") == ""


def test_a_night_without_its_report_is_not_committed(deployment: Deployment) -> None:
    checkout = Path(opened()["checkout"])
    deployment.run("run_stage", "prepare_data", folder=checkout, MLFLOW_TRACKING_URI=NOBODY)
    assert "results/metrics.json is missing" in deployment.run("commit_night", folder=checkout, code=2)


# Closing


def test_a_green_night_is_on_record_and_its_checkout_is_gone(deployment: Deployment) -> None:
    checkout = Path(opened()["checkout"])
    run_stages(deployment, checkout)
    check = {"day": DAY, "name": "volume", "value": 1.5, "setting": "volume_low", "bound": 0.1}
    write_json(checkout / "checks.json", {"checks": [check, {**check, "name": "new_items", "value": None}]})
    assert len(waiting(checkout / "outbox")) == 4
    arguments = ["--run-id=scheduled__2016-10-05T02:00:00+00:00", "--state=success"]
    for _ in range(2):
        assert deployment.answer("close_run", *arguments, folder=deployment.project) == {"records_waiting": 0}
    (run,) = parents(os.environ["MLFLOW_EXPERIMENT_NAME"])
    assert (run.info.status, run.data.tags["atspeed.state"]) == ("FINISHED", "success")
    assert run.data.metrics == {"checks/volume": 1.5}
    assert not checkout.exists()
    assert count_children(run) == 4


def count_children(parent: "Run") -> int:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([parent.info.experiment_id])
    return sum(run.data.tags.get("mlflow.parentRunId") == parent.info.run_id for run in runs)


def test_a_failed_night_keeps_its_checkout_for_a_fortnight(deployment: Deployment) -> None:
    checkout, other = Path(opened("first")["checkout"]), Path(opened("second")["checkout"])
    close_run("first", "failed", ["finetune_target", "report"])
    states = {run.data.tags["atspeed.pipeline_run"]: run for run in parents(os.environ["MLFLOW_EXPERIMENT_NAME"])}
    assert states["first"].info.status == "FAILED"
    assert states["first"].data.tags["atspeed.failed_tasks"] == "finetune_target, report"
    assert states["second"].info.status == "RUNNING"
    assert checkout.exists()
    long_ago = time.time() - (KEEP_DAYS + 1) * 24 * 60 * 60
    os.utime(checkout / "night.json", (long_ago, long_ago))
    close_run("second", "success", [])
    assert not checkout.exists()
    assert not other.exists()


def test_a_night_without_new_data_says_so(deployment: Deployment) -> None:
    checkout = Path(opened()["checkout"])
    close_run("scheduled__2016-10-05T02:00:00+00:00", "skipped", [])
    (run,) = parents(os.environ["MLFLOW_EXPERIMENT_NAME"])
    assert (run.info.status, run.data.tags["atspeed.state"]) == ("FINISHED", "skipped")
    assert "no interactions arrived" in run.data.tags["mlflow.note.content"]
    assert not checkout.exists()


def test_while_mlflow_is_down_the_records_wait_in_the_checkout(deployment: Deployment) -> None:
    checkout = Path(opened()["checkout"])
    deployment.run("run_stage", "prepare_data", folder=checkout, MLFLOW_TRACKING_URI=NOBODY)
    arguments = ["--run-id=scheduled__2016-10-05T02:00:00+00:00", "--state=success"]
    output = deployment.run("close_run", *arguments, folder=deployment.project, code=75, MLFLOW_TRACKING_URI=NOBODY)
    assert "no answer from" in output.splitlines()[-1]
    assert len(waiting(checkout / "outbox")) == 1
    deployment.run("close_run", *arguments, folder=deployment.project)
    assert not checkout.exists()


def test_closing_a_run_that_never_opened_is_no_fault(deployment: Deployment) -> None:
    assert close_run("never", "failed", ["open_run"]) == {"records_waiting": 0}


def test_the_stages_of_a_night_leave_its_run_open(deployment: Deployment) -> None:
    checkout = Path(opened()["checkout"])
    deployment.run("run_stage", "prepare_data", folder=checkout)
    (run,) = parents(os.environ["MLFLOW_EXPERIMENT_NAME"])
    assert run.info.status == "RUNNING"
    assert count_children(run) == 1


def test_no_two_runs_share_a_folder() -> None:
    names = {safe_name(run_id) for run_id in ("a:b", "a_b", "a+b", "x" * 300, "x" * 301, ".hidden")}
    assert len(names) == 6
    assert all(len(name) < 120 and not name.startswith(".") for name in names)
