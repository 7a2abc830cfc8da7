"""A little real data and tiny models: what tests run the whole pipeline on."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.complete_params import completed
from tests.in_process import run_stage

ROOT = Path(__file__).resolve().parents[1]
METHODS = ["sft", "atspeed_s", "atspeed_r", "one_shot"]
KS = ["1", "3", "5"]
TINY: dict[str, dict[str, Any]] = {
    "prepare_data": {"dataset": "small", "source": "table", "path": "small.csv", "k_core": 2, "max_history": 8},
    "build_identifiers": {"codebook_width": 8, "embedding_dim": 8},
    "finetune_target": {
        "architecture": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64},
        "max_epochs": 4,
        "deepspeed": {"num_processes": 1, "zero_stage": 2, "precision": "float32"},  # importing it takes the time here
    },
    "cache_topk": {"top_k": 5, "contexts_per_user": 2, "contexts_per_shard": 32, "compare_users": 4},
    "align_draft": {
        "architecture": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32},
        "num_updates": 20,
        "one_shot": {"hidden_size": 16, "num_updates": 20},
    },
    "evaluate": {
        "ks": [1, 3, 5],
        "draft_beams": 8,
        "timing_users": 4,
        "bootstrap_samples": 50,
        "exclude_history": False,
        "sasrec": {"hidden_size": 16, "dropout": 0.2, "max_updates": 40},
        "plan": {"users": 16, "batches": [1, 4], "prompt_percentiles": [50], "repetitions": 1},
        "calls_by_nodes": {"ks": [3, 5], "nodes": [4, 16], "users": 12},
    },
}


def copy_project(folder: Path) -> None:
    """Copy the project's files into `folder`: those that git tracks, and new ones that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(lambda name: (ROOT / name).is_file(), names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def small_data() -> pd.DataFrame:
    """Ratings of the 60 most rated films by the 60 users who rated most of them."""
    raw = ROOT / "data" / "raw" / "ml-latest-small-2016"
    ratings = pd.read_parquet(raw / "ratings.parquet").merge(pd.read_parquet(raw / "movies.parquet"))
    ratings.columns = ratings.columns.str.replace("Id", "_id", regex=False).str.lower()
    ratings = ratings.rename(columns={"movie_id": "item_id"})
    for column in ("item_id", "user_id"):
        ratings = ratings[ratings[column].isin(ratings[column].value_counts().index[:60])]
    return ratings[["user_id", "item_id", "rating", "timestamp", "title"]]


def tiny_params() -> dict[str, Any]:
    """The delivered params.yaml with little data and small models."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, changes in TINY.items():
        params[section].update(changes)
    return completed(params)


def write_data_and_params(folder: Path) -> None:
    """Write small.csv and params.yaml into `folder`."""
    small_data().to_csv(folder / "small.csv", index=False)
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny_params(), sort_keys=False))


def run_every_stage(folder: Path) -> None:
    """Run all stages in `folder`, in the order of dvc.yaml, without DVC: files are all that they exchange."""
    write_data_and_params(folder)
    shutil.copy(ROOT / "dvc.yaml", folder)
    for name in stages():
        stage, _, method = name.partition("@")
        run_stage(folder, stage, *(["--method", method] if method else []))


def stages() -> list[str]:
    """The stages of dvc.yaml in an order in which they can run; "STAGE@METHOD" where a stage has methods."""
    wiring = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return [
        f"{name}@{method}" if method else name
        for name, stage in wiring.items()
        for method in stage.get("matrix", {"method": [None]})["method"]
    ]
