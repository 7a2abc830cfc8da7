"""Fine-tuning with the real DeepSpeed, and under torchrun where processes are what is tested."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
import yaml

from atspeed_core.data.sequences import Example
from atspeed_core.models.building import build_model, load_model, save_model
from atspeed_core.models.lora import merged
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.settings import Lora
from atspeed_core.training import finetune
from atspeed_core.training.curves import read_curves
from atspeed_core.training.finetune import Progress, build, validation_sample
from local_services.servers import LOOPBACK, free_port
from tasks.processes import kill
from tests.complete_params import Architecture, FinetuneTarget, completed
from tests.in_process import logging_as_before, working_in
from tests.models.test_building import save_base
from tests.tiny_models import make_catalog

CODES = [(a, b, c) for a in range(4) for b in range(3) for c in range(2)]
CATALOG = make_catalog(CODES)
TARGET_OF_ALIGNMENT = {"architecture": {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 8}}
SCRATCH = {
    "architecture": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 16, "dropout": 0.2}
}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[str((start + i) % 24) for i in range(rng.integers(5, 12))] for start in rng.integers(0, 24, 30)]
    (tmp_path / "data").mkdir()
    pd.DataFrame({"user_id": [str(u) for u in range(30)], "item_ids": rows}).to_parquet(tmp_path / "data/train.parquet")
    valid = {
        "user_id": ["0", "1", "2"],
        "history": [["1", "2"], ["5"], ["7", "8", "9"]],
        "targets": [["3"], ["6"], ["10"]],
    }
    pd.DataFrame(valid).to_parquet(tmp_path / "data/valid.parquet")
    CATALOG.save(tmp_path / "identifiers.json")
    return tmp_path


def write_params(folder: Path, name: str, settings: dict) -> list[str]:
    """Write the params of a training; returns the arguments of its command."""
    params = {
        "prepare_data": {"dataset": "tiny", "source": "table", "path": "none.csv", "max_history": 5},
        "finetune_target": {"batch_size": 8, "max_epochs": 4, "patience": 4, "learning_rate": 0.01, **settings},
        "align_draft": TARGET_OF_ALIGNMENT,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(completed(params)))
    arguments = ["--params", f"{name}.yaml", "--processed", "data", "--identifiers", "identifiers.json"]
    arguments += ["--warm-from", "champion"] if (folder / "champion").exists() else []
    return [*arguments, "--checkpoints", f"checkpoints/{name}", "--output", f"out/{name}"]


def start(folder: Path, name: str, settings: dict) -> subprocess.Popen:
    """Start a training as the stage does, under torchrun."""
    arguments = write_params(folder, name, settings)
    processes = settings.get("deepspeed", {}).get("num_processes", 1)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "atspeed_core.training.finetune", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)


def finish(process: subprocess.Popen) -> None:
    assert process.wait(timeout=240) == 0


@pytest.fixture(scope="module", autouse=True)
def one_job() -> Iterator[None]:
    """This process is the only one of a job that ends with the tests: DeepSpeed cannot join a second one."""
    job = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(free_port())}
    end = dist.destroy_process_group
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {**job, "DS_ACCELERATOR": "cpu"}.items():
            patch.setenv(key, value)
        patch.setattr(dist, "destroy_process_group", lambda: None)
        yield
    if dist.is_initialized():
        end()


def train(folder: Path, name: str, settings: dict) -> None:
    """Train in this process; importing DeepSpeed in another one takes ten seconds."""
    with working_in(folder), logging_as_before():
        finetune.main(write_params(folder, name, settings))


def test_a_killed_training_resumes_and_ends_with_the_same_weights(folder):
    """A SIGKILL after the second epoch, under torchrun."""
    train(folder, "whole", SCRATCH)
    killed = start(folder, "killed", SCRATCH)
    progress = folder / "checkpoints/killed/progress.json"
    while not (progress.exists() and json.loads(progress.read_text())["epoch"] >= 2):
        assert killed.poll() is None
        time.sleep(0.02)
    kill([*psutil.Process(killed.pid).children(recursive=True), psutil.Process(killed.pid)])
    assert not (folder / "out/killed").exists()
    assert json.loads(progress.read_text())["epoch"] < 4
    finish(start(folder, "killed", SCRATCH))
    assert_same_training(folder)
    losses = [value for _, name, value in read_curves(folder / "out/whole/curves.csv").rows if name == "train_loss"]
    assert losses[-1] < losses[0]
    assert len(list((folder / "checkpoints/whole").glob("epoch-*"))) <= 2


def assert_same_training(folder: Path) -> None:
    whole, resumed = (load_model(folder / "out" / name).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)
    assert read_curves(folder / "out/whole/curves.csv") == read_curves(folder / "out/killed/curves.csv")


class Killed(Exception):
    """Stands for SIGKILL."""


@contextmanager
def killed_in(epoch: int, *, recorded: bool) -> Iterator[None]:
    """The training dies in this epoch, after its checkpoint, before or after progress.json names it."""
    save = Progress.save

    def dies(self: Progress, path: Path) -> None:
        if recorded or self.epoch != epoch:
            save(self, path)
        if self.epoch == epoch:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "save", dies)
        with pytest.raises(Killed):
            yield


def test_a_warm_training_killed_twice_resumes_and_ends_with_the_same_weights(folder):
    save_champion(folder / "champion", seed=9)
    warm = {"learning_rate": 1e-4, "max_epochs": 8}
    settings = {**SCRATCH, "max_epochs": 1, "learning_rate": 1.0, "patience": 8, "warm": warm, "validation_users": 2}
    train(folder, "whole", settings)
    with killed_in(3, recorded=False):
        train(folder, "killed", settings)
    assert json.loads((folder / "checkpoints/killed/progress.json").read_text())["epoch"] == 2
    with killed_in(5, recorded=True):
        train(folder, "killed", settings)
    assert json.loads((folder / "checkpoints/killed/progress.json").read_text())["epoch"] == 5
    assert not (folder / "out/killed").exists()
    train(folder, "killed", settings)
    assert_same_training(folder)
    champion, trained = load_model(folder / "champion").state_dict(), load_model(folder / "out/whole").state_dict()
    assert all(torch.allclose(trained[n], champion[n], atol=0.01) for n in champion)
    assert not torch.equal(trained["lm_head.weight"], champion["lm_head.weight"])


def test_validation_takes_the_same_users_in_every_epoch_and_all_where_there_are_no_more():
    examples = [Example(str(user), ["1"], ["2"]) for user in range(50)]
    sample = validation_sample(examples, 20, seed=3)
    assert sample == validation_sample(examples, 20, seed=3) != validation_sample(examples, 20, seed=4)
    assert len({example.user for example in sample}) == 20
    assert sample == [example for example in examples if example in sample]
    assert validation_sample(examples, 50, seed=3) == validation_sample(examples, None, seed=3) == examples


def save_champion(folder: Path, *, seed: int) -> None:
    tokenizer = build_tokenizer(CATALOG.code_tokens)
    model = build_model(Architecture(**SCRATCH["architecture"]), tokenizer, seed=seed)
    save_model(folder, model, tokenizer, instruction="")


def test_a_model_with_a_base_starts_from_the_champion_with_rows_for_new_codes(tmp_path):
    settings = FinetuneTarget(base_model=str(save_base(tmp_path / "base", tied=False)), lora=Lora(rank=2))
    first, tokenizer = build(settings, CATALOG, tmp_path / "none")
    with torch.no_grad():
        for weight in first.parameters():
            weight.add_(torch.rand_like(weight))
    save_model(tmp_path / "champion", merged(first), tokenizer, instruction="")
    more = make_catalog([*CODES, (4, 3, 2)])
    second, larger = build(settings, more, tmp_path / "none", tmp_path / "champion")
    before, now = load_model(tmp_path / "champion"), merged(second)
    assert len(larger) == len(tokenizer) + 3
    assert torch.equal(now.get_input_embeddings().weight[: len(tokenizer)], before.get_input_embeddings().weight)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(now.state_dict()[name], before.state_dict()[name])
    assert not torch.equal(now.state_dict()[name], load_model(tmp_path / "base").state_dict()[name])


def test_a_batch_computed_in_parts_makes_the_same_updates(folder):
    """Also in an epoch's last batch, which has fewer windows than parts."""
    settings = {"architecture": {**SCRATCH["architecture"], "dropout": 0.0}, "batch_size": 29, "learning_rate": 1e-3}
    train(folder, "whole", settings)
    train(folder, "parts", settings | {"deepspeed": {"micro_batch_size": 4}})
    whole, parts = (load_model(folder / "out" / name).state_dict() for name in ("whole", "parts"))
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=2e-5, rtol=1e-3)
    curves = [
        [value for _, _, value in read_curves(folder / f"out/{name}/curves.csv").rows] for name in ("whole", "parts")
    ]
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)


def test_lora_on_a_base_model_with_two_processes(folder):
    base = save_base(folder / "base", tied=False)
    settings = {"base_model": str(base), "instruction": "the user liked :", "lora": {"rank": 2}, "selection": "loss"}
    finish(start(folder, "lora", settings | {"deepspeed": {"num_processes": 2, "zero_stage": 2}}))
    tuned, plain = load_model(folder / "out/lora"), load_model(base)
    assert not [name for name in tuned.state_dict() if "lora" in name]
    rows = plain.get_input_embeddings().weight.shape[0]
    torch.testing.assert_close(tuned.get_input_embeddings().weight[:rows], plain.get_input_embeddings().weight)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(tuned.state_dict()[name], plain.state_dict()[name])
    losses = [value for _, name, value in read_curves(folder / "out/lora/curves.csv").rows if name == "valid_loss"]
    assert losses[-1] < losses[0]
