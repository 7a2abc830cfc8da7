"""A night on top of another: the champion from real git, DVC cache and remote, through the stages themselves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer

from atspeed_core.files import read_json, write_json
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.building import build_model, save_model
from atspeed_core.models.champion import choose_start
from atspeed_core.models.one_shot_draft import OneShotDraft, save_one_shot, unit_names
from atspeed_core.models.retrieval_draft import RetrievalDraft, load_retrieval
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.settings import load_params
from atspeed_core.training.curves import Curves, read_curves
from tasks.serving.schema import weights_signature
from tests.complete_params import completed
from tests.in_process import STAGE_ENVIRONMENT, call, run_stage

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 16}
STILL = 1e-12  # a learning rate at which weights stay what they were
PARAMS: dict[str, Any] = {
    "prepare_data": {"dataset": "tiny", "source": "table", "path": "none.csv", "max_history": 5},
    "build_identifiers": {"codebook_width": 4, "num_levels": 3, "embedding_dim": 8, "rebuild_above": 5.0},
    "finetune_target": {
        "architecture": SHAPE,
        "batch_size": 16,
        "max_epochs": 2,
        "selection": "loss",
        "warm": {"max_epochs": 1, "learning_rate": STILL},
    },
    "cache_topk": {"top_k": 4, "compare_users": 2},
    "align_draft": {
        "architecture": SHAPE,
        "num_updates": 4,
        "warm": {"num_updates": 2, "learning_rate": STILL},
        "one_shot": {"hidden_size": 8, "num_updates": 4, "warm": {"num_updates": 2, "learning_rate": STILL}},
    },
    "evaluate": {"ks": [1, 4], "draft_beams": 4},
}
DVC_YAML = {"stages": {"drafts": {"cmd": "true", "outs": ["models/drafts/atspeed_r"]}}}  # an out that was never made


class Night:
    """A folder with git and DVC, in which stages are run."""

    def __init__(self, folder: Path, num_items: int, clone_of: Path | None = None) -> None:
        self.folder = folder
        if clone_of:
            self.run("git", "clone", "--quiet", str(clone_of), str(folder), cwd=clone_of)
        else:
            folder.mkdir()
            self.run("git", "init", "--quiet")
            self.run("dvc", "init", "--quiet")
            (folder / "dvc.yaml").write_text(yaml.safe_dump(DVC_YAML))
        self.write_params()
        write_processed(folder / "data" / "processed", num_items)

    def environment(self) -> dict[str, str]:
        names = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **names, "PATH": path, "DVC_SITE_CACHE_DIR": str(self.folder.parent / "site")}

    def run(self, *command: str, cwd: Path | None = None) -> str:
        where = cwd or self.folder
        done = subprocess.run(command, cwd=where, env=self.environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def write_params(self, **changes: Any) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(completed(PARAMS | changes)))

    def stage(self, name: str, *arguments: str) -> dict[str, str]:
        """Run a stage; returns the facts of its record."""
        run_stage(self.folder, name, *arguments, DVC_SITE_CACHE_DIR=str(self.folder.parent / "site"))
        (record,) = self.folder.glob(f"outbox/*-{name}-*/record.json")
        facts = dict(json.loads(record.read_text())["facts"])
        shutil.rmtree(self.folder / "outbox")
        return facts

    def commit(self) -> str:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "night")
        return self.run("git", "rev-parse", "HEAD").strip()

    def champion_files(self) -> set[str]:
        folder = self.folder / "data" / "champion"
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def write_processed(folder: Path, num_items: int) -> None:
    folder.mkdir(parents=True)
    ids = [str(n) for n in range(num_items)]
    texts = [f"Film {n} {['horror', 'comedy', 'drama'][n % 3]}" for n in range(num_items)]
    pd.DataFrame({"item_id": ids, "title": ids, "text": texts}).to_parquet(folder / "items.parquet")
    rng = np.random.default_rng(0)
    rows = [[str((3 * n + user) % num_items) for n in rng.permutation(num_items // 3)[:6]] for user in range(24)]
    users = [str(user) for user in range(24)]
    pd.DataFrame({"user_id": users, "item_ids": rows}).to_parquet(folder / "train.parquet")
    held_out = pd.DataFrame({"user_id": users[:4], "history": rows[:4], "targets": [["0"]] * 4})
    held_out.to_parquet(folder / "valid.parquet")


def save_models(folder: Path) -> None:
    """A target and two drafts with random weights, for the identifiers of `folder`."""
    catalog = Catalog.load(folder / "data" / "identifiers" / "identifiers.json")
    tokenizer, settings = build_tokenizer(catalog.code_tokens), load_params(folder / "params.yaml").align_draft
    architecture = settings.architecture
    draft = OneShotDraft(settings.one_shot, catalog, max_history=5, seed=13)
    save_one_shot(folder / "models" / "drafts" / "one_shot", draft, catalog)
    for name, seed in (("target", 11), ("drafts/sft", 12)):
        model = build_model(architecture, tokenizer, seed=seed)
        save_model(folder / "models" / name, model, tokenizer, instruction="")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A finished night whose data lie in a remote."""
    night = Night(tmp_path_factory.mktemp("nights") / "first", 30)
    assert night.stage("warm_start")["champion_commit"] == "None"
    assert night.champion_files() == {"origin.json"}
    night.stage("build_identifiers")
    save_models(night.folder)
    night.run("dvc", "remote", "add", "--default", "--quiet", "store", str(night.folder.parent / "remote"))
    night.run(
        "dvc", "add", "--quiet", "data/identifiers", "models/target", "models/drafts/sft", "models/drafts/one_shot"
    )
    (night.folder / ".gitignore").write_text("/data/processed/\n/data/champion/\n/outbox/\n")
    night.commit()
    night.run("dvc", "push")
    night.run("git", "tag", "nightly/2016-01-01")
    return night


@pytest.fixture
def second(first: Night, tmp_path: Path) -> Night:
    """The next night in a clone, with three more items and an empty cache."""
    night = Night(tmp_path / "second", 33, clone_of=first.folder)
    night.write_params(warm_start={"commit": "nightly/2016-01-01"})
    return night


def rows_by_token(model: Path) -> dict[str, torch.Tensor]:
    rows = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    vocabulary = AutoTokenizer.from_pretrained(model, local_files_only=True).get_vocab()
    return {token: rows[place] for token, place in vocabulary.items()}


def assert_same_weights(mine: Path, theirs: Path) -> None:
    now, before = rows_by_token(mine), rows_by_token(theirs)
    assert len(now.keys() & before.keys()) > 10
    for token in now.keys() & before.keys():
        torch.testing.assert_close(now[token], before[token], atol=1e-6, rtol=0)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = [load_file(model / "model.safetensors")[name] for model in (mine, theirs)]
    torch.testing.assert_close(*weights, atol=1e-6, rtol=0)


def test_a_night_goes_on_from_the_champion(first: Night, second: Night) -> None:
    commit = first.run("git", "rev-parse", "HEAD").strip()
    assert second.stage("warm_start")["champion_commit"] == commit
    champion = second.folder / "data" / "champion"
    assert read_json(champion / "origin.json") == {"commit": commit, "base_model": None, "draft_base_model": None}
    assert {path.name for path in champion.iterdir()} == {"origin.json", "identifiers", "target", "drafts"}
    assert sorted(path.name for path in (champion / "drafts").iterdir()) == ["one_shot", "sft"]
    weights = "models/target/model.safetensors"
    assert (champion / "target/model.safetensors").read_bytes() == (first.folder / weights).read_bytes()

    second.stage("build_identifiers")
    report = read_json(second.folder / "data/identifiers/report.json")
    assert (report["kept"], report["new"], report["rebuilt"]) == (30, 3, False)

    facts = second.stage("finetune_target")
    assert (facts["started_from"], facts["start_reason"]) == (commit, "the champion's target")
    assert_same_weights(second.folder / "models/target", first.folder / "models/target")
    epochs = pd.read_csv(second.folder / "models/target/curves.csv")["step"]
    assert set(epochs) == {1}

    second.stage("cache_topk")
    assert second.stage("align_draft", "--method", "sft")["started_from"] == commit
    assert_same_weights(second.folder / "models/drafts/sft", first.folder / "models/drafts/sft")
    assert second.stage("align_draft", "--method", "one_shot")["started_from"] == commit
    now, before = (load_file(night.folder / "models/drafts/one_shot/model.safetensors") for night in (second, first))
    catalog = Catalog.load(second.folder / "data/identifiers/identifiers.json")
    assert len(now["head.bias"]) == len(unit_names(catalog))  # how many are new depends on the processor's rounding
    torch.testing.assert_close(now["blocks.0.inner.weight"], before["blocks.0.inner.weight"], atol=1e-6, rtol=0)
    second.write_params(
        warm_start={"commit": "nightly/2016-01-01"},
        align_draft={**PARAMS["align_draft"], "one_shot": {"hidden_size": 16, "num_updates": 2}},
    )
    facts = second.stage("align_draft", "--method", "one_shot")
    assert facts["start_reason"] == "the champion's drafts/one_shot has another shape: hidden_size 8, now 16"
    facts = second.stage("align_draft", "--method", "atspeed_r")
    assert facts["start_reason"] == "the champion has no drafts/atspeed_r"
    assert facts["started_from"] == "scratch"
    assert second.stage("align_draft", "--method", "dare")["start_reason"] == "nothing is trained"
    folder = second.folder / "models/drafts/dare"
    assert read_curves(folder / "curves.csv") == Curves()
    assert load_retrieval(folder) == RetrievalDraft(seed=load_params(second.folder / "params.yaml").align_draft.seed)
    assert weights_signature(folder).inputs.input_names() == ["items"]


def test_rebuilt_identifiers_mean_a_target_from_scratch(second: Night) -> None:
    second.write_params(
        warm_start={"commit": "nightly/2016-01-01"},
        build_identifiers={**PARAMS["build_identifiers"], "codebook_width": 5},
    )
    second.stage("warm_start")
    assert second.stage("build_identifiers")["identifiers_reason"] == "codebook_width was 4, is 5"
    catalog = Catalog.load(second.folder / "data/identifiers/identifiers.json")
    architecture = load_params(second.folder / "params.yaml").finetune_target.architecture
    start = choose_start(second.folder / "data/champion", "target", catalog, architecture=architecture)
    assert (start.origin, start.reason) == ("scratch", "the champion's items have other identifiers now")


def refused(night: Night, commit: str) -> str:
    night.write_params(warm_start={"commit": commit})
    done = call("tasks.warm_start", folder=night.folder, **STAGE_ENVIRONMENT)
    assert done.exit_code == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_what_cannot_be_fetched_is_one_line_and_leaves_the_earlier_champion(first: Night, second: Night) -> None:
    write_json(second.folder / "data/champion/origin.json", {"commit": "earlier"})
    message = refused(second, "nightly/2015-01-01")
    assert "warm_start.commit: nightly/2015-01-01 is not a commit of this repository" in message
    assert "is not a commit of this repository" in refused(second, "--all")
    second.run("git", "rm", "--quiet", "models/target.dvc")
    second.commit()
    assert "warm_start.commit: HEAD has no models/target in its dvc.lock" in refused(second, "HEAD")
    second.run("dvc", "config", "--local", "remote.store.url", str(second.folder / "empty"))
    message = refused(second, "nightly/2016-01-01")
    assert "data/identifiers of nightly/2016-01-01 is neither in DVC's cache nor in its remote" in message
    assert second.champion_files() == {"origin.json"}
    assert read_json(second.folder / "data/champion/origin.json") == {"commit": "earlier"}
