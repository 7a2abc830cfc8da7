"""From a finished night to the champion and back, with real git, DVC and MLflow."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from atspeed_core.errors import UserError
from atspeed_core.metrics import METRICS
from tasks.deployment.model_registry import Champion, champion_of, set_alias, version_of
from tasks.deployment.weights import fetch_model, locked_digests, tree_md5
from tasks.mlflow_store import mlflow_client
from tasks.nightly import evaluate_champion, register_challenger
from tasks.nightly.night import load_night
from tasks.promotion import promote, rollback
from tests.mlflow_server import mlflow_server
from tests.nightly.registered_nights import DATASET, WRONG, Deployment, git

NAMES = {part: f"atspeed-{DATASET}-{part}" for part in ("target", "draft", "recommender")}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    with mlflow_server(folder) as server:
        yield Deployment.make(folder, server)


@pytest.fixture(scope="module", autouse=True)
def environment(deployment: Deployment) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deployment.environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def first(deployment: Deployment) -> Path:
    """The first night, registered and judged."""
    return registered(deployment, "2026-01-01")


def registered(deployment: Deployment, date: str, **options: Any) -> Path:
    checkout = deployment.night(date, **options)
    for name in ("nightly.evaluate_champion", "nightly.register_challenger"):
        done = deployment.call(name, cwd=checkout)
        assert done.code == 0, done.log
    deployment_versions[date] = done.answer["version"]
    return checkout


deployment_versions: dict[str, str] = {}


def of(version: str) -> tuple[str, ...]:
    return ("--dataset", DATASET, "--version", version)


def aliases() -> dict[str, dict[str, str]]:
    with mlflow_client() as client:
        return {part: dict(client.get_registered_model(name).aliases) for part, name in NAMES.items()}


def state() -> Any:
    """All that the registry says, without the times."""
    with mlflow_client() as client:
        versions = {
            (name, version.version): (version.tags, version.description, version.source)
            for name in NAMES.values()
            for version in client.search_model_versions(f"name = '{name}'")
        }
    return aliases(), versions


def test_a_night_becomes_three_versions_without_weights(deployment: Deployment, first: Path) -> None:
    import mlflow
    from mlflow.models import Model

    night = load_night(first)
    with mlflow_client() as client:
        assert aliases() == {part: {"challenger": "1"} for part in NAMES}
        version = client.get_model_version(NAMES["recommender"], "1")
        assert version.tags == {
            "atspeed.commit": git(first, "rev-parse", "nightly/2026-01-01"),
            "atspeed.tag": "nightly/2026-01-01",
            "atspeed.date": "2026-01-01",
            "atspeed.dataset": DATASET,
            "atspeed.method": "atspeed_s",  # its draft equals the target: fewest target calls
            "atspeed.run": night.mlflow_run_id,
            "atspeed.target_version": "1",
            "atspeed.draft_version": "1",
        }
        assert "| 3 | 2.0000 | 1.0000 |" in version.description
        digests = locked_digests((first / "dvc.lock").read_text())
        for part, path in (("target", "models/target"), ("draft", "models/drafts/atspeed_s")):
            external = client.get_model_version(NAMES[part], "1")
            assert (external.tags["atspeed.path"], external.tags["atspeed.md5"]) == (path, digests[path])
            about = Model.load(f"models:/{NAMES[part]}/1")
            assert about.signature.inputs.input_names() == ["input_ids", "attention_mask"]
            folder = mlflow.artifacts.download_artifacts(f"models:/{NAMES[part]}/1")
            assert set(about.load_input_example(folder)) == {"input_ids", "attention_mask"}
            assert not list(Path(folder).rglob("*.safetensors"))
        about = Model.load(f"models:/{NAMES['recommender']}/1")
        assert [param.name for param in about.signature.params] == ["k", "verification", "allowed_items"]
        files = Path(mlflow.artifacts.download_artifacts(f"models:/{NAMES['recommender']}/1"))
        assert sum(file.stat().st_size for file in files.rglob("*") if file.is_file()) < 50_000
        run = client.get_run(night.mlflow_run_id)
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, f"{data.dataset.digest}.dir") == (DATASET, digests["data/processed"])
        model = client.get_logged_model(version.source.removeprefix("models:/"))
        assert {metric.key: metric.value for metric in model.metrics}["challenger/accepted_steps"] == 2.0


def test_registering_again_changes_nothing(deployment: Deployment, first: Path) -> None:
    before = state()
    assert deployment.call("nightly.register_challenger", cwd=first).answer == {
        "dataset": DATASET,
        "version": "1",
        "recommender": NAMES["recommender"],
    }
    assert state() == before


def test_a_version_that_was_not_judged_is_not_promoted(first: Path) -> None:
    with mlflow_client() as client, pytest.raises(UserError, match=r"not accepted it .not judged.*promotion\.gate"):
        promote.promote(client, DATASET, "1")
    with mlflow_client() as client, pytest.raises(UserError, match="has no version '77'"):
        promote.promote(client, DATASET, "77")


def test_the_first_night_is_promoted_and_there_is_no_way_back(deployment: Deployment, first: Path) -> None:
    judged = deployment.call("promotion.gate", "--dataset", DATASET)  # the challenger, where no version is named
    verdict = {"accepted": True, "reasons": [], "approval": False}
    assert (judged.code, judged.answer) == (0, {"dataset": DATASET, "version": "1", **verdict}), judged.log
    done = deployment.call("promotion.promote", *of("1"))
    assert (done.code, done.answer) == (0, {"dataset": DATASET, "champion": "1", "previous": None}), done.log
    assert aliases() == {part: {"champion": "1"} for part in NAMES}
    after = state()
    for name in ("promotion.gate", "promotion.promote"):
        assert deployment.call(name, *of("1")).code == 0
    assert deployment.call("nightly.register_challenger", cwd=first).code == 0
    assert state() == after
    back = deployment.call("promotion.rollback", "--dataset", DATASET)
    assert back.code == 2
    assert "there is no previous champion" in back.log


def test_a_champion_is_measured_on_tonights_users(deployment: Deployment, first: Path) -> None:
    """The second night has a user whose only item the champion does not know."""
    second = registered(deployment, "2026-01-02", extra_user=True)
    figures = json.loads((second / "results/champion.json").read_text())
    assert (figures["of"]["version"], figures["ks"], figures["num_test_users"]) == ("1", [1, 3], 7)
    rows = pd.read_parquet(second / "results/per_user/champion.parquet")
    assert list(rows.columns) == ["user_id", "verification", "k", *METRICS.all()]
    at_k = rows[rows["k"] == 3].set_index("user_id")
    assert at_k["recall"].to_dict() == {**{f"u{n}": 1.0 for n in range(6)}, "stranger": 0.0}
    assert figures["verifications"]["strict"]["3"]["recall"] == pytest.approx(6 / 7)
    assert figures["verifications"]["strict"]["3"]["accepted_steps"] == 2.0
    assert figures["verifications"]["strict"]["3"]["latency_ms_p95"] > 0
    written = (second / "results/champion.json").stat().st_mtime_ns
    again = deployment.call("nightly.evaluate_champion", cwd=second)
    assert again.answer["champion_version"] == "1"
    assert (second / "results/champion.json").stat().st_mtime_ns == written


def test_a_good_night_takes_the_champions_place(deployment: Deployment, first: Path) -> None:
    version = deployment_versions["2026-01-02"]
    judged = deployment.call("promotion.gate", *of(version))
    assert judged.code == 0, judged.log
    assert deployment.call("promotion.promote", *of(version)).answer == {
        "dataset": DATASET,
        "champion": "2",
        "previous": "1",
    }
    assert aliases() == {part: {"champion": "2", "previous": "1"} for part in NAMES}


def test_a_worse_night_is_refused_with_readable_reasons(deployment: Deployment) -> None:
    third = registered(deployment, "2026-01-03", extra_user=True, target_seed=WRONG, gate={"min_accepted_steps": 2.5})
    version, run = deployment_versions["2026-01-03"], load_night(third).mlflow_run_id
    judged = deployment.call("promotion.gate", *of(version))
    assert judged.code == 99
    assert not judged.answer["accepted"]
    assert "AS at K = 3 is 2.000; the floor is 2.500" in judged.answer["reasons"]
    assert [reason for reason in judged.answer["reasons"] if reason.startswith("recall at K = 3 is")]
    assert all(reason in judged.log for reason in judged.answer["reasons"])
    with mlflow_client() as client:
        for tags in (client.get_model_version(NAMES["recommender"], version).tags, client.get_run(run).data.tags):
            assert tags["atspeed.gate"] == "refused"
            reasons = [tags[f"atspeed.gate.reason.{number}"] for number, _ in enumerate(judged.answer["reasons"], 1)]
            assert reasons == judged.answer["reasons"]
        page = Path(client.download_artifacts(run, "gate.md")).read_text()
    assert judged.answer["reasons"][0] in page
    assert deployment.call("promotion.promote", *of(version)).code == 2
    assert aliases()["recommender"] == {"champion": "2", "previous": "1", "challenger": version}


def test_other_thresholds_drop_the_reasons_that_no_longer_hold(deployment: Deployment) -> None:
    version = deployment_versions["2026-01-03"]
    loose = {"min_accepted_steps": 0, "tolerance": 1, "approval": True}
    waits = deployment.call("promotion.gate", *of(version), "--gate", json.dumps(loose))
    assert (waits.code, waits.answer["accepted"], "waits for approval" in waits.log) == (99, True, True)
    judged = deployment.call("promotion.gate", *of(version), "--gate", json.dumps(loose), "--approved")
    assert (judged.code, judged.answer["accepted"], judged.answer["reasons"]) == (0, True, []), judged.log
    with mlflow_client() as client:
        tags = client.get_model_version(NAMES["recommender"], version).tags
    assert tags["atspeed.gate"] == "accepted"
    assert not [name for name in tags if name.startswith("atspeed.gate.reason")]
    wrong = deployment.call("promotion.gate", *of(version), "--gate", '{"tolerence": 1}')
    assert (wrong.code, "tolerence" in wrong.log) == (2, True)
    assert deployment.call("promotion.gate", *of(version)).code == 99  # by the night's own thresholds again


def test_a_rollback_swaps_once_a_run(deployment: Deployment) -> None:
    for _ in range(2):  # the second one is a retry of the same DAG run
        done = deployment.call("promotion.rollback", "--dataset", DATASET, ATSPEED_RUN_ID="run-a")
        assert (done.code, done.answer) == (0, {"dataset": DATASET, "champion": "1", "previous": "2"}), done.log
        assert all(found["champion"] == "1" and found["previous"] == "2" for found in aliases().values())
    with mlflow_client() as client:
        assert "atspeed.rolled_back" in client.get_model_version(NAMES["recommender"], "2").tags


def test_a_version_that_was_rolled_back_does_not_come_back_by_the_gate(deployment: Deployment) -> None:
    judged = deployment.call("promotion.gate", *of("2"))
    assert judged.code == 99
    assert "version 2 was rolled back" in judged.answer["reasons"][0]


def test_evidence_against_another_champion_does_not_count_until_it_is_measured_again(deployment: Deployment) -> None:
    third, version = deployment.folder / "checkouts/2026-01-03", deployment_versions["2026-01-03"]
    judged = deployment.call("promotion.gate", *of(version), "--gate", '{"min_accepted_steps": 0, "tolerance": 1}')
    (reason,) = judged.answer["reasons"]
    assert "was compared with version 2, but the champion now is version 1; run evaluate_champion" in reason
    for name in ("nightly.evaluate_champion", "nightly.register_challenger"):
        assert deployment.call(name, cwd=third).code == 0
    judged = deployment.call("promotion.gate", *of(version), "--gate", '{"min_accepted_steps": 0, "tolerance": 1}')
    assert judged.code == 0, judged.log


def test_a_second_rollback_goes_forward_again(deployment: Deployment) -> None:
    assert deployment.call("promotion.rollback", "--dataset", DATASET).answer == {
        "dataset": DATASET,
        "champion": "2",
        "previous": "1",
    }
    with mlflow_client() as client:
        assert "atspeed.rolled_back" not in client.get_model_version(NAMES["recommender"], "2").tags
        assert "atspeed.rolled_back" in client.get_model_version(NAMES["recommender"], "1").tags
        assert champion_of(client, DATASET) == Champion(
            version="2",
            commit=git(deployment.folder / "checkouts/2026-01-02", "rev-parse", "nightly/2026-01-02"),
            date="2026-01-02",
            method="atspeed_s",
        )


class Killed(Exception):
    """Stands for SIGKILL between two writes."""


@contextmanager
def killed_after(writes: int) -> Iterator[None]:
    """Every alias after the first `writes` ones fails."""
    from mlflow import MlflowClient

    write, left = MlflowClient.set_registered_model_alias, [writes]

    def dies(self: Any, name: str, alias: str, version: str) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        write(self, name, alias, version)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", dies)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("writes", range(6))
def test_a_change_that_was_killed_between_two_aliases_is_completed(writes: int) -> None:
    """Promotion of version 3, then the way back."""
    with mlflow_client() as client:
        client.set_model_version_tag(NAMES["recommender"], "3", "atspeed.gate", "accepted")
        set_alias(client, DATASET, "champion", "2")
        set_alias(client, DATASET, "previous", "1")
        with killed_after(writes):
            promote.promote(client, DATASET, "3")
        assert promote.promote(client, DATASET, "3") == "2"
        assert aliases() == {part: {"champion": "3", "previous": "2"} for part in NAMES}
        with killed_after(writes):
            rollback.roll_back(client, DATASET, None)
        rollback.roll_back(client, DATASET, None)
        assert aliases() == {part: {"champion": "2", "previous": "3"} for part in NAMES}


def test_a_rollback_that_was_killed_is_forgotten_when_another_version_was_promoted_since() -> None:
    with mlflow_client() as client:
        with killed_after(5):
            rollback.roll_back(client, DATASET, "run-b")
        client.set_model_version_tag(NAMES["recommender"], "1", "atspeed.gate", "accepted")
        promote.promote(client, DATASET, "1")
        swap = rollback.roll_back(client, DATASET, "run-c")
        assert (swap.left, swap.restored) == ("1", "2")


def test_a_registration_that_was_killed_makes_no_second_target_or_draft(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(deployment.folder / "checkouts/2026-01-02", checkout)
    run = deployment.parent_run("again")
    load_night(checkout).model_copy(update={"mlflow_run_id": run}).save(checkout)
    with monkeypatch.context() as patch:
        patch.setattr(register_challenger, "log_recommender", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            deployment.call("nightly.register_challenger", cwd=checkout)
    done = deployment.call("nightly.register_challenger", cwd=checkout)
    with mlflow_client() as client:
        versions_by_part = {
            part: [v for v in client.search_model_versions(f"name = '{name}'") if v.tags["atspeed.run"] == run]
            for part, name in NAMES.items()
        }
    assert {part: len(versions) for part, versions in versions_by_part.items()} == dict.fromkeys(NAMES, 1)
    assert done.answer["version"] == str(versions_by_part["recommender"][0].version)


def test_a_night_without_a_champion_leaves_no_figures_of_one(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: Path
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(deployment.folder / "checkouts/2026-01-02", checkout)
    night = load_night(checkout).model_copy(update={"dataset": "nothing-registered"})
    night.save(checkout)
    done = deployment.call("nightly.evaluate_champion", cwd=checkout)
    assert (done.code, done.answer) == (0, {"champion_version": None, "figures": {}})
    assert not (checkout / "results/champion.json").exists()


def test_a_promoted_night_is_compared_with_what_it_was_compared_with(deployment: Deployment, first: Path) -> None:
    second = load_night(deployment.folder / "checkouts/2026-01-02")
    before = Champion(version="1", commit="c", date="2026-01-01", method="sft")
    with mlflow_client() as client:
        assert version_of(client, NAMES["recommender"], "champion") == "2"
    assert evaluate_champion.opponent(second.model_copy(update={"champion": before})) == before


def test_a_server_that_is_down_is_temporary(deployment: Deployment, first: Path) -> None:
    for name, arguments, cwd in (
        ("promotion.gate", of("1"), None),
        ("promotion.promote", of("1"), None),
        ("promotion.rollback", ("--dataset", DATASET), None),
        ("nightly.register_challenger", (), first),
    ):
        done = deployment.call(name, *arguments, cwd=cwd, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
        assert done.code == 75, done.log


def test_models_of_a_commit_are_fetched_once_and_whole(deployment: Deployment, first: Path, tmp_path: Path) -> None:
    commit, project = git(first, "rev-parse", "HEAD"), str(deployment.folder / "project")
    folder = fetch_model(commit, "sft", tmp_path, project, with_data=True)
    assert sorted(file.name for file in folder.iterdir()) == [
        "draft",
        "identifiers",
        "params.yaml",
        "plan.json",
        "processed",
        "target",
    ]
    digests = locked_digests((first / "dvc.lock").read_text())
    assert tree_md5(folder / "draft") == digests["models/drafts/sft"]
    fetched_at = folder.stat().st_mtime_ns
    assert fetch_model(commit, "sft", tmp_path, "/gone", with_data=True) == folder
    assert folder.stat().st_mtime_ns == fetched_at


def test_what_cannot_be_fetched_is_named_and_leaves_nothing(
    deployment: Deployment, first: Path, tmp_path: Path
) -> None:
    commit, project = git(first, "rev-parse", "HEAD"), str(deployment.folder / "project")
    with pytest.raises(UserError, match="no such commit"):
        fetch_model("0" * 40, "sft", tmp_path / "m", project)
    with pytest.raises(UserError, match="does not contain models/drafts/atspeed_r"):
        fetch_model(commit, "atspeed_r", tmp_path / "m", project)
    with pytest.raises(UserError, match=r"not in the DVC remote .*dvc push"):
        fetch_model(commit, "sft", tmp_path / "m", project, remote=str(tmp_path / "empty"))
    remote = tmp_path / "damaged"
    shutil.copytree(deployment.folder / "home/dvc-remote", remote)
    for weights in remote.rglob("*"):
        if weights.is_file() and weights.stat().st_size > 5_000:
            weights.chmod(0o644)
            weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"differs from dvc.lock|not in the DVC remote"):
        fetch_model(commit, "sft", tmp_path / "m", project, remote=str(remote))
    assert [file for file in (tmp_path / "m").iterdir() if not file.name.endswith(".lock")] == []
