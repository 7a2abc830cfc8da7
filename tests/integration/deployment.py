"""A deployment of the project for the integration tests: its repository, a tiny data set and the feed of its days.

The interactions walk around a ring of items (each user continues where the day before ended), so that a model that
has learned anything beats one that has not; each day adds items to the ring.
"""

import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.tiny_project import copy_project

DATASET = "ring"
USERS = 90
FIRST_ITEMS = 40
NEW_ITEMS_A_DAY = 2
HISTORY_DAYS = 8  # before the first night
DAY_SECONDS = 86_400

PRESET: dict[str, Any] = {
    "description": "A ring of items, for tests",
    "methods": ["sft", "atspeed_s"],
    "params": {
        "prepare_data": {
            "dataset": DATASET,
            "source": "daily",
            "path": "data/interactions",
            "rating_threshold": None,
            "k_core": 2,
            "max_history": 8,
        },
        "build_identifiers": {"num_levels": 3, "codebook_width": 8, "embedding_dim": 8, "rebuild_above": 10.0},
        "finetune_target": {
            "architecture": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64},
            "learning_rate": 5.0e-3,
            "max_epochs": 8,
            "patience": 8,
            "warm": {"max_epochs": 3, "learning_rate": 2.0e-3},
        },
        "cache_topk": {
            "top_k": 5,
            "contexts_per_user": 2,
            "rollouts_per_user": 1,
            "contexts_per_shard": 64,
            "compare_users": 4,
        },
        "align_draft": {
            "architecture": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32},
            "num_updates": 30,
            "warm": {"num_updates": 15, "learning_rate": 1.0e-3},
        },
        "evaluate": {
            "ks": [1, 5],
            "verifications": ["strict"],
            "draft_beams": 8,
            "draft_steps": 2,
            "timing_users": 4,
            "plan": {"users": 16, "batches": [1], "prompt_percentiles": [50], "repetitions": 1},
            "published_users": 8,
            "calls_by_nodes": {"ks": [5], "nodes": [4, 16], "users": 8},
            "sasrec": {"hidden_size": 8, "dropout": 0.2, "max_updates": 20},
            "bootstrap_samples": 100,
            "exclude_history": False,
        },
    },
    "nightly": {
        "checks": {"volume_low": 0.1, "volume_high": 10.0, "min_rows": 20},
        "full_retrain_days": 0,
        "gate": {"k": 5, "tolerance": 0.05, "risk": 0.25, "min_accepted_steps": 0.0, "max_latency_ratio": 10.0},
        "batch": {"k": 5, "users_per_shard": 45, "batch_size": 16},
    },
}


class Deployment:
    """A git repository with the project and its tiny preset, and the feed that nights read."""

    def __init__(self, folder: Path, home: Path) -> None:
        """Copy the project into `folder` and commit it; the feed of `home` starts empty."""
        self.folder = folder
        self.feed = home / "feeds" / DATASET
        self.feed.mkdir(parents=True)
        copy_project(folder)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.change_preset({})

    def change_preset(self, changes: dict[str, Any]) -> None:
        """Write the preset with some of its params changed, and commit."""
        params = {**PRESET["params"], **{k: {**PRESET["params"][k], **v} for k, v in changes.items()}}
        path = self.folder / "presets" / f"{DATASET}.yaml"
        path.write_text(yaml.safe_dump({**PRESET, "params": params}, sort_keys=False))
        self.commit("preset")

    def branch(self, name: str) -> None:
        """Check out a new branch of this name, from main."""
        self.git("checkout", "--quiet", "-B", name, "main")

    def main(self) -> None:
        """Check out main, which is what the nights run."""
        self.git("checkout", "--quiet", "main")

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", message)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def tags(self) -> list[str]:
        """Tags of the nights."""
        return self.git("tag", "--list", "nightly/*").split()

    def commit_of(self, tag: str) -> str:
        return self.git("rev-parse", f"{tag}^{{commit}}")

    def add_day(self, day: int, first: pd.Timestamp) -> str:
        """Write the feed's file of the day number `day` (0: the first night's, with all the history before it)."""
        date = first + pd.Timedelta(days=day)
        interactions(day, first).to_csv(self.feed / f"{date:%Y-%m-%d}.csv", index=False)
        return f"{date:%Y-%m-%d}"

    def add_history(self, first: pd.Timestamp) -> None:
        """Write the feed's files of the days before the first night."""
        for day in range(-HISTORY_DAYS, 0):
            self.add_day(day, first)


def interactions(day: int, first: pd.Timestamp) -> pd.DataFrame:
    """Every user's interaction of a day: the item after the one of the day before, on a ring that grows."""
    start = int((first + pd.Timedelta(days=day)).timestamp())
    items = FIRST_ITEMS + NEW_ITEMS_A_DAY * max(day, 0)
    place = day + HISTORY_DAYS
    rows = [
        (f"u{user}", f"i{(5 * user + 2 * place + step) % items:03d}", 5.0, start + 60 * user + step)
        for user in range(USERS)
        for step in range(2)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
