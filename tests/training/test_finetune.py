"""Fine-tuning through the real torchrun and DeepSpeed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml

from atspeed_core.models.building import build_model, load_model, save_model
from atspeed_core.models.lora import merged
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.settings import Architecture, FinetuneTarget, Lora
from atspeed_core.training.curves import read_curves
from atspeed_core.training.finetune import build
from tasks.processes import kill
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


def start(folder: Path, name: str, settings: dict) -> subprocess.Popen:
    params = {
        "prepare_data": {"dataset": "tiny", "source": "table", "path": "none.csv", "max_history": 5},
        "finetune_target": {"batch_size": 8, "max_epochs": 4, "patience": 4, "learning_rate": 0.01, **settings},
        "align_draft": TARGET_OF_ALIGNMENT,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(params))
    processes = settings.get("deepspeed", {}).get("num_processes", 1)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "atspeed_core.training.finetune", "--params", f"{name}.yaml", "--processed", "data"]
    command += ["--warm-from", "champion"] if (folder / "champion").exists() else []
    command += ["--identifiers", "identifiers.json", "--checkpoints", f"checkpoints/{name}", "--output", f"out/{name}"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)


def finish(process: subprocess.Popen) -> None:
    assert process.wait(timeout=240) == 0


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(folder):
    whole_and_killed(folder, SCRATCH, epochs=4)
    curves = read_curves(folder / "out/whole/curves.csv")
    losses = [value for _, name, value in curves.rows if name == "train_loss"]
    assert losses[-1] < losses[0]
    assert len(list((folder / "checkpoints/whole").glob("epoch-*"))) <= 2


def test_a_killed_warm_training_goes_on_and_ends_with_the_same_weights(folder):
    save_champion(folder / "champion", seed=9)
    warm = {"learning_rate": 1e-4, "max_epochs": 8}
    settings = {**SCRATCH, "max_epochs": 1, "learning_rate": 1.0, "patience": 8, "warm": warm}
    whole_and_killed(folder, settings, epochs=8)
    champion, trained = load_model(folder / "champion").state_dict(), load_model(folder / "out/whole").state_dict()
    assert all(torch.allclose(trained[n], champion[n], atol=0.01) for n in champion)
    assert not torch.equal(trained["lm_head.weight"], champion["lm_head.weight"])


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


def whole_and_killed(folder: Path, settings: dict, *, epochs: int) -> None:
    """Train once, and once with a SIGKILL after the second epoch; both have to end the same."""
    finish(start(folder, "whole", settings))
    killed = start(folder, "killed", settings)
    progress = folder / "checkpoints/killed/progress.json"
    while not (progress.exists() and json.loads(progress.read_text())["epoch"] >= 2):
        assert killed.poll() is None
        time.sleep(0.02)
    kill([*psutil.Process(killed.pid).children(recursive=True), psutil.Process(killed.pid)])
    assert not (folder / "out/killed").exists()
    stopped_at = json.loads(progress.read_text())["epoch"]
    assert stopped_at < epochs
    finish(start(folder, "killed", settings))
    whole, resumed = (load_model(folder / "out" / name).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)
    assert read_curves(folder / "out/whole/curves.csv") == read_curves(folder / "out/killed/curves.csv")


def test_a_batch_computed_in_parts_makes_the_same_updates(folder):
    """Also in an epoch's last batch, which has fewer windows than parts."""
    settings = {"architecture": {**SCRATCH["architecture"], "dropout": 0.0}, "batch_size": 29, "learning_rate": 1e-3}
    finish(start(folder, "whole", settings))
    finish(start(folder, "parts", settings | {"deepspeed": {"micro_batch_size": 4}}))
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
