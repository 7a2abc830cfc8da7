"""A deployment with finished nights of a toy data set, and a real MLflow server; shared by the registry's tests.

The models are random. What a night should recommend is taken from the lists of the first target, so that target is
right and any other is wrong.
"""

import importlib
import json
import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from dvc.cli import main as dvc
from typer.testing import CliRunner

from atspeed_core.data.sequences import Example
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.building import save_model
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.recommender import Recommender
from atspeed_core.settings import DecodingConfig, load_params
from tasks import evaluate, evaluate_target
from tasks.deployment.model_registry import Champion
from tasks.nightly.night import Night
from tests.complete_params import completed
from tests.in_process import working_in
from tests.tiny_models import make_catalog, make_model

ROOT = Path(__file__).resolve().parents[2]
CODES = [(a, b, c) for a in range(4) for b in range(3) for c in range(2)]
HISTORIES = [[str((7 * user + 5 * step) % 24) for step in range(4)] for user in range(6)]
K = 3
DATASET = "toy"
OUTS = {
    "prepare_data": "data/processed",
    "build_identifiers": "data/identifiers",
    "finetune_target": "models/target",
    "align_draft_sft": "models/drafts/sft",
    "align_draft_atspeed_s": "models/drafts/atspeed_s",
    "evaluate_sft": "models/plans/sft.json",
    "evaluate_atspeed_s": "models/plans/atspeed_s.json",
}
GATE = {"k": K, "min_accepted_steps": 0.0, "max_latency_ratio": 1000.0}
RIGHT, WRONG = 1, 7  # seeds of targets


@dataclass(frozen=True)
class Deployment:
    """A git repository with presets, a DVC remote and an MLflow server; nights are made in clones of it."""

    folder: Path
    server: str

    @property
    def environment(self) -> dict[str, str]:
        """What the commands of a night are given."""
        return {
            "ATSPEED_HOME": str(self.folder / "home"),
            "ATSPEED_REPOSITORY": str(self.folder / "project"),
            "MLFLOW_TRACKING_URI": self.server,
            "DVC_SITE_CACHE_DIR": str(self.folder / "dvc-site"),
        }

    @classmethod
    def make(cls, folder: Path, server: str) -> "Deployment":
        project = folder / "project"
        (project / "presets").mkdir(parents=True)
        (project / ".dvc").mkdir()
        preset = {"description": "toy", "methods": ["sft", "atspeed_s"], "nightly": {"gate": GATE}}
        (project / f"presets/{DATASET}.yaml").write_text(yaml.safe_dump(preset))
        remote = f"['remote \"store\"']\n    url = {folder}/home/dvc-remote\n"
        (project / ".dvc/config").write_text(f"[core]\n    remote = store\n    analytics = false\n{remote}")
        (project / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
        (project / ".gitignore").write_text("/data/\n/models/\n/results/\n/night.json\n")
        stages = {name: {"cmd": "echo made by the test", "outs": [out]} for name, out in OUTS.items()}
        (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        (project / "params.yaml").write_text(yaml.safe_dump(toy_params()))
        git(project, "init", "--quiet", "--initial-branch", "main")
        git(project, "add", ".")
        git(project, "commit", "--quiet", "-m", "project")
        return cls(folder, server)

    def night(
        self,
        date: str,
        *,
        target_seed: int = RIGHT,
        extra_user: bool = False,
        champion: Champion | None = None,
        gate: dict[str, Any] | None = None,
    ) -> Path:
        """A checkout as it is before evaluate_champion, its results measured and its tag set."""
        checkout = self.folder / "checkouts" / date
        git(self.folder, "clone", "--quiet", str(self.folder / "project"), str(checkout))
        write_outs(checkout, target_seed, extra_user)
        with working_in(checkout):
            params = load_params(Path("params.yaml"))
            evaluate_target.evaluate(params)
            for method in ("sft", "atspeed_s"):
                evaluate.evaluate(method, params)
            for arguments in (["commit", "--force", "--quiet"], ["push", "--quiet"]):
                assert dvc(arguments) == 0
        git(checkout, "add", ".")
        git(checkout, "commit", "--quiet", "-m", date)
        git(checkout, "tag", f"nightly/{date}")
        git(checkout, "push", "--quiet", "origin", f"nightly/{date}")
        night = Night(
            run_id=f"run-{date}",
            date=date,
            dataset=DATASET,
            methods=["sft", "atspeed_s"],
            commit=git(checkout, "rev-parse", "HEAD~1"),
            tag=f"nightly/{date}",
            champion=champion,
            mlflow_run_id=self.parent_run(date),
            gate=gate or {},
        )
        night.save(checkout)
        return checkout

    def parent_run(self, date: str) -> str:
        from mlflow import MlflowClient

        client = MlflowClient(self.server)
        found = client.get_experiment_by_name("atspeed-nightly")
        experiment = found.experiment_id if found else client.create_experiment("atspeed-nightly")
        return str(client.create_run(experiment, run_name=f"nightly {date}").info.run_id)

    def call(self, name: str, *arguments: str, cwd: Path | None = None, **environment: str) -> "Outcome":
        """Run a nightly command; in this process, because importing torch and MLflow each time takes too long."""
        app = importlib.import_module(f"tasks.{name}").app
        handlers = logging.getLogger().handlers[:]
        with working_in(cwd or self.folder / "project"):
            done = CliRunner().invoke(app, list(arguments), env={**self.environment, **environment})
        logging.getLogger().handlers[:] = handlers  # the command's writes to a stream that is closed now
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Outcome(done.exit_code, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    answer: Any
    log: str


def toy_params() -> dict[str, Any]:
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["evaluate"].update(
        ks=[1, K], draft_beams=8, draft_steps=2, timing_users=2, bootstrap_samples=50, batch_size=4
    )
    params["evaluate"]["sasrec"] = {"hidden_size": 8, "dropout": 0.2, "max_updates": 10}
    params["evaluate"]["plan"] = {"users": 8, "batches": [1], "prompt_percentiles": [50], "repetitions": 1}
    return completed(params)


def toy_catalog(extra_user: bool) -> Catalog:
    """24 items; the 25th shares its identifier with the first, so the same models know it."""
    return make_catalog([*CODES, CODES[0]] if extra_user else CODES)


def write_outs(checkout: Path, target_seed: int, extra_user: bool) -> None:
    catalog, tokenizer = toy_catalog(extra_user), build_tokenizer(make_catalog(CODES).code_tokens)
    catalog.save(checkout / "data/identifiers/identifiers.json")
    for folder, seed in (("target", target_seed), ("drafts/atspeed_s", target_seed), ("drafts/sft", 99)):
        save_model(checkout / "models" / folder, make_model(tokenizer, seed=seed), tokenizer, instruction="")
    write_processed(checkout / "data/processed", extra_user)


def write_processed(folder: Path, extra_user: bool) -> None:
    """Test users whose targets are the first target's best items; "stranger" knows the 25th item only."""
    histories = {f"u{number}": history for number, history in enumerate(HISTORIES)}
    examples = [Example(user, history, right_items(history)) for user, history in histories.items()]
    examples += [Example("stranger", ["24", "24"], ["1"])] if extra_user else []
    folder.mkdir(parents=True)
    train = {"user_id": [e.user for e in examples], "item_ids": [e.history[:-1] for e in examples]}
    pd.DataFrame(train).to_parquet(folder / "train.parquet")
    for part, rows in (
        ("valid", [Example(e.user, e.history[:-1], e.history[-1:]) for e in examples]),
        ("test", examples),
    ):
        columns = {"user_id": [e.user for e in rows], "history": [e.history for e in rows]}
        pd.DataFrame({**columns, "targets": [e.targets for e in rows]}).to_parquet(folder / f"{part}.parquet")
    items = toy_catalog(extra_user).items
    pd.DataFrame({"item_id": items, "title": items, "text": items}).to_parquet(folder / "items.parquet")
    (folder / "stats.json").write_text(json.dumps({"users": len(examples), "items": len(items)}))


def right_items(history: list[str]) -> list[str]:
    """The best item of the first target, searched with K beams."""
    return right_recommender().recommend([history], K, "none").items[0][:1]


_right: list[Recommender] = []


def right_recommender() -> Recommender:
    """The first target, built once."""
    if not _right:
        import tempfile

        folder = Path(tempfile.mkdtemp())
        catalog = make_catalog(CODES)
        tokenizer = build_tokenizer(catalog.code_tokens)
        catalog.save(folder / "identifiers.json")
        save_model(folder / "target", make_model(tokenizer, seed=RIGHT), tokenizer, instruction="")
        decoding = DecodingConfig(exclude_history=True)
        _right.append(
            Recommender.load(folder / "target", None, folder / "identifiers.json", device="cpu", decoding=decoding)
        )
    return _right[0]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Night", "-c", "user.email=night@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
