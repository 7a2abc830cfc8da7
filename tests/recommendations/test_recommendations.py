"""batch_recommend on a real git repository with DVC and a real MLflow server; the models are tiny and random."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from atspeed_core.data.histories import load_histories
from atspeed_core.data.prepare import LAYOUTS
from tasks.deployment.weights import load_recommender
from tasks.recommendations import plan_recommendations, publish_recommendations, recommend_shard
from tests.in_process import answer_of, refusal_of
from tests.mlflow_server import mlflow_server
from tests.tiny_models import make_catalog, make_recommender

ROOT = Path(__file__).resolve().parents[2]
CODES: list[tuple[int, ...]] = [(a, b, c) for a in range(4) for b in range(3) for c in range(2)]
EVERYTHING = [str(item) for item in range(24)]
K = 5
NAME = "atspeed-toy-recommender"
USERS = {f"user{number}": [str((7 * number + step) % 24) for step in range(3 + number)] for number in range(5)}
USERS |= {"nobody": ["x1", "x2", "x3"], "sated": EVERYTHING, "nearly": EVERYTHING[:22]}
OUTS = ["data/identifiers", "data/processed", "models/target", "models/drafts/sft"]


def write_processed(folder: Path) -> None:
    """Leave-one-out tables of `USERS`; user0 is known in training only."""
    folder.mkdir(parents=True)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "valid": [], "test": [], "items": []}
    for user, items in USERS.items():
        cut = len(items) if user == "user0" else len(items) - 2
        rows["train"].append({"user_id": user, "item_ids": items[:cut]})
        for part, place in (("valid", cut), ("test", cut + 1)) if user != "user0" else ():
            capped = items[:place][-4:]  # as max_history does
            rows[part].append({"user_id": user, "history": capped, "targets": [items[place]]})
    rows["items"] = [{"item_id": item, "title": item, "text": ""} for item in EVERYTHING]
    for part, layout in LAYOUTS.items():
        pq.write_table(pa.Table.from_pylist(rows[part], schema=layout), folder / f"{part}.parquet")


def run(folder: Path, *command: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "site")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def make_repository(folder: Path) -> str:
    """A repository whose dvc.lock holds tiny models and data; returns its commit."""
    source = folder / "source"
    make_recommender(make_catalog(CODES), source)
    (source / "identifiers").mkdir()
    (source / "identifiers.json").rename(source / "identifiers" / "identifiers.json")
    write_processed(source / "processed")
    copies = zip(["identifiers", "processed", "target", "draft"], OUTS, strict=True)
    stages = {name: {"cmd": f"cp -r source/{name} {out}", "outs": [out]} for name, out in copies}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["evaluate"].update(ks=[1, K], draft_beams=8, exclude_history=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / ".gitignore").write_text("/source/\n")
    for place in ("data", "models/drafts"):
        (folder / place).mkdir(parents=True)
    run(folder, "git", "init", "--quiet")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").touch()  # what `dvc init` would make, in no time
    (folder / ".dvc" / ".gitignore").write_text("/cache\n/tmp\n/site\n")
    run(folder, "dvc", "repro", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--message", "night")
    return run(folder, "git", "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server with a store of its own."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@dataclass(frozen=True)
class Deployment:
    """A repository with a model, registered twice; version 1 is the champion."""

    repository: Path
    commit: str


@pytest.fixture(scope="module")
def deployment(server: str, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    from mlflow.tracking import MlflowClient

    repository = tmp_path_factory.mktemp("repository")
    commit = make_repository(repository)
    client = MlflowClient(server)
    client.create_registered_model(NAME)
    model = client.create_logged_model("0", name="recommender").model_id
    for _ in range(2):
        client.create_model_version(
            NAME, f"models:/{model}", tags={"atspeed.commit": commit, "atspeed.method": "sft"}, model_id=model
        )
    client.set_registered_model_alias(NAME, "champion", "1")
    return Deployment(repository, commit)


@pytest.fixture
def project(deployment: Deployment, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the deployed project, with an ATSPEED_HOME of its own beside it; returns that home."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.setenv("ATSPEED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATSPEED_REPOSITORY", str(deployment.repository))
    monkeypatch.setenv("ATSPEED_DVC_REMOTE", str(deployment.repository / ".dvc" / "cache"))
    monkeypatch.delenv("ATSPEED_ANSWER", raising=False)
    monkeypatch.chdir(tmp_path)
    write_preset(k=K)
    return tmp_path / "home"


def write_preset(**batch: int) -> None:
    Path("presets").mkdir(exist_ok=True)
    content = {"description": "toy", "nightly": {"batch": {"users_per_shard": 3, "batch_size": 2, **batch}}}
    Path("presets/toy.yaml").write_text(yaml.safe_dump(content))


def plan(*arguments: str) -> tuple[Path, list[int]]:
    answer = answer_of(plan_recommendations, "--dataset", "toy", *arguments)
    return Path(answer["folder"]), answer["shards"]


def recommend(folder: Path, shards: list[int]) -> list[dict[str, Any]]:
    return [answer_of(recommend_shard, "--folder", str(folder), "--shard", str(shard)) for shard in shards]


def listed(folder: Path) -> dict[str, list[str]]:
    """User -> items by rank, over all shards."""
    lists = pd.concat([pd.read_parquet(path) for path in sorted((folder / "lists").glob("shard-*.parquet"))])
    return {str(user): rows.sort_values("rank")["item_id"].tolist() for user, rows in lists.groupby("user_id")}


def runs(server: str, experiment: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server)
    known_experiment = client.get_experiment_by_name(experiment)
    return list(client.search_runs([known_experiment.experiment_id])) if known_experiment else []


def test_histories_hold_all_that_is_known_of_a_user(tmp_path: Path) -> None:
    write_processed(tmp_path / "processed")
    histories = load_histories(tmp_path / "processed")
    assert histories == USERS
    assert list(histories) == sorted(USERS)


def test_every_user_gets_the_targets_own_list(project: Path, server: str, tmp_path: Path) -> None:
    folder, shards = plan()
    assert (folder, shards) == (project / "recommendations" / "toy" / "v1", [0, 1, 2])
    assert [shard["users"] for shard in recommend(folder, shards)] == [3, 3, 2]
    published = answer_of(publish_recommendations, "--folder", str(folder))
    assert published["users"] == len(USERS)
    assert published["users_per_second"] > 0
    lists = listed(folder.parent / "current")
    recommender = load_recommender(plan_recommendations.load_plan(folder).model)
    for user in USERS.keys() - {"nobody", "sated"}:
        assert lists[user] == recommender.recommend([USERS[user]], K, "none").items[0]
        assert not set(lists[user]) & set(USERS[user])
    (run,) = runs(server, tmp_path.name)
    assert run.info.run_name == "batch toy v1"
    assert run.data.metrics["users_per_second"] == published["users_per_second"]
    assert run.data.params["k"] == str(K)


def test_a_user_without_a_list_does_not_fail_the_shard(project: Path) -> None:
    folder, shards = plan()
    recommend(folder, shards)
    answer_of(publish_recommendations, "--folder", str(folder))
    lists = listed(folder)
    assert sorted(lists["nearly"]) == ["22", "23"]  # all that is left of the catalog
    assert USERS.keys() - lists.keys() == {"nobody", "sated"}
    assert json.loads((folder / "manifest.json").read_text())["users_without_list"] == 2


def test_only_what_is_missing_is_computed_again(project: Path, server: str, tmp_path: Path) -> None:
    folder, shards = plan()
    first = recommend(folder, shards)
    answer_of(publish_recommendations, "--folder", str(folder))
    files = sorted((folder / "lists").iterdir())
    files[1].write_bytes(files[1].read_bytes()[:-20])  # cut short, as no command of ours leaves it
    before = [file.stat().st_mtime_ns for file in files]
    assert plan() == (folder, shards)
    again = recommend(folder, shards)
    assert [a.stat().st_mtime_ns != b for a, b in zip(files, before, strict=True)] == [False, True, False]
    assert (again[0], again[2]) == (first[0], first[2])
    answer_of(publish_recommendations, "--folder", str(folder))
    assert len(runs(server, tmp_path.name)) == 1


def test_nothing_is_published_before_all_shards_are_there(project: Path) -> None:
    folder, _ = plan()
    recommend(folder, [0, 2])
    line = refusal_of(publish_recommendations, "--folder", str(folder))
    assert "shard-00001.parquet: missing" in line
    assert "recommend_shard" in line
    assert not (folder / "manifest.json").exists()
    assert not (folder.parent / "current").is_symlink()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lists: lists[lists["user_id"] != "user1"], "user 'user1' has no list"),
        (lambda lists: lists.assign(user_id=lists["user_id"].replace("user1", "guest")), "user '(user1|guest)'"),
        (lambda lists: lists[lists["rank"] != 2], "ranks do not run from 1"),
        (lambda lists: lists.assign(rank=lists["rank"] + 1), "ranks do not run from 1"),
        (lambda lists: lists.assign(item_id="3"), "an item is recommended twice"),
    ],
)
def test_a_shard_that_is_not_complete_is_not_published(project: Path, change: Any, fault: str) -> None:
    folder, shards = plan()
    recommend(folder, shards)
    path = folder / "lists" / "shard-00001.parquet"
    table = pq.read_table(path)
    assert "user1" in table["user_id"].to_pylist()
    changed = pa.Table.from_pandas(change(table.to_pandas()), schema=table.schema, preserve_index=False)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    line = refusal_of(publish_recommendations, "--folder", str(folder))
    assert re.search(fault, line)


def test_the_link_moves_with_the_version_and_back(project: Path) -> None:
    seen = []
    for version in ("1", "2", "1"):
        folder, shards = plan("--version", version)
        recommend(folder, shards)
        answer_of(publish_recommendations, "--folder", str(folder))
        current = folder.parent / "current"
        seen.append(json.loads((current / "manifest.json").read_text())["version"])
        assert os.readlink(current) == f"v{version}"
    assert seen == ["1", "2", "1"]


def test_lists_of_another_length_are_made_anew(project: Path) -> None:
    folder, shards = plan()
    recommend(folder, shards)
    write_preset(k=2, users_per_shard=5)
    assert plan() == (folder, [0, 1])
    assert not (folder / "lists").exists()
    recommend(folder, [0, 1])
    answer_of(publish_recommendations, "--folder", str(folder))
    assert {len(items) for items in listed(folder).values()} == {2}


def test_mistakes_are_named(project: Path, server: str) -> None:
    assert "presets/other.yaml: no such preset" in refusal_of(plan_recommendations, "--dataset", "other")
    unknown = refusal_of(plan_recommendations, "--dataset", "toy", "--version", "9")
    assert f"{NAME} has no version '9'" in unknown
    write_preset(k=9)
    assert "nightly.batch.k = 9: at most 8 here" in refusal_of(plan_recommendations, "--dataset", "toy")
    Path("presets/new.yaml").write_text("description: no model yet\n")
    assert "has no champion yet" in refusal_of(plan_recommendations, "--dataset", "new")
    assert "run plan_recommendations first" in refusal_of(recommend_shard, "--folder", "nowhere", "--shard", "0")
    write_preset(k=K)
    folder, _ = plan()
    assert "the plan has 3 shards" in refusal_of(recommend_shard, "--folder", str(folder), "--shard", "3")


def test_a_server_that_is_down_is_a_temporary_fault(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, shards = plan()
    recommend(folder, shards)
    address = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for module, arguments in (
        (plan_recommendations, ["--dataset", "toy"]),
        (publish_recommendations, ["--folder", str(folder)]),
    ):
        assert CliRunner().invoke(module.app, arguments).exit_code == 75
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    answer_of(publish_recommendations, "--folder", str(folder))
    assert len(runs(address, Path.cwd().name)) == 1


def test_the_commands_answer_into_the_file_that_the_dag_names(project: Path, tmp_path: Path) -> None:
    folder, _ = plan()
    command = [sys.executable, "-m", "tasks.recommendations.recommend_shard", f"--folder={folder}", "--shard=2"]
    environment = {**os.environ, "ATSPEED_ANSWER": str(tmp_path / "answer.json"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "answer.json").read_text())["users"] == 2
    assert "users/s" in done.stderr
