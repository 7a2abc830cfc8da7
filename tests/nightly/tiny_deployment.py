"""A deployment whose stages take no time: a git repository with DVC, a shared folder, an MLflow server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.in_process import call

ROOT = Path(__file__).resolve().parents[2]
DATASET = "toy"
NOBODY = "http://127.0.0.1:9"  # nothing answers there

# Every stage writes what it read, in capitals where it writes weights; files in CONTROL say how it misbehaves.
STAGES = """
import json, os, subprocess, sys, time
from pathlib import Path
from atspeed_core.errors import TemporaryError, UserError
from tasks.stage import stage

name, out, inputs = sys.argv[1], Path(sys.argv[2]), [Path(path) for path in sys.argv[3:]]
control = Path(os.environ["CONTROL"])


def note(event):
    with (control / "log").open("a") as log:
        log.write(f"{event} {out} {time.time()}\\n")


with stage(name.split("@")[0], Path("params.yaml"), method=(name.split("@") + [None])[1]) as run:
    note("start")
    if (control / "mistake").exists():
        raise UserError("params.yaml: 'align_draft.alpha' is too large; choose less than 1")
    if (control / "busy").exists():
        raise TemporaryError("the port is taken; run again")
    if (control / "defect").exists():
        raise RuntimeError("a defect")
    if (control / "slow").exists():
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        note("waits")
        time.sleep(600)
    if (control / "pause").exists():
        time.sleep(3)
    text = "".join((path / "file" if path.is_dir() else path).read_text() for path in inputs)
    if name == "report":
        out.parent.mkdir(exist_ok=True)
        by_k = {"10": {"recall": 0.5, "ndcg": 0.25, "accepted_steps": 2.0, "walltime_speedup": 1.5}}
        out.write_text(json.dumps({"target": by_k, "methods": {"sft": {"strict": by_k}}, "text": text}))
        Path("results/summary.md").write_text("# summary")
    else:
        out.mkdir(parents=True)
        (out / "file").write_text(text + name.upper())
    run.metric("letters", len(text))
    note("end")
"""
WIRING: dict[str, Any] = {
    "stages": {
        "prepare_data": {
            "cmd": "python stages.py prepare_data data/processed source.txt",
            "deps": ["source.txt", "stages.py"],
            "outs": ["data/processed"],
        },
        "align_draft": {
            "matrix": {"method": ["sft", "atspeed_s", "atspeed_r"]},
            "cmd": "python stages.py align_draft@${item.method} models/drafts/${item.method} data/processed",
            "params": ["align_draft.alpha", "warm_start.commit"],
            "deps": ["data/processed", "stages.py"],
            "outs": ["models/drafts/${item.method}"],
        },
        "report": {
            "cmd": "python stages.py report results/metrics.json models/drafts/sft",
            "deps": [f"models/drafts/{method}" for method in ("sft", "atspeed_s", "atspeed_r")],
            "outs": [{"results/metrics.json": {"cache": False}}, {"results/summary.md": {"cache": False}}],
        },
    }
}
PRESET = {
    "description": "toy",
    "methods": ["sft", "atspeed_s"],
    "params": {"prepare_data": {"dataset": DATASET, "k_core": 2}},
    "nightly": {"full_retrain_days": 0},
}


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *name, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Deployment:
    """A repository "project" and a shared folder "home", and what is done with them."""

    def __init__(self, folder: Path, server: str) -> None:
        """Make the repository; `server` is MLflow's address."""
        self.folder, self.server = folder, server
        self.home, self.project, self.control = folder / "home", folder / "project", folder / "control"
        self.control.mkdir()
        for name in ("presets", ".dvc"):
            (self.project / name).mkdir(parents=True)
        for name in ("params.yaml", ".gitignore"):
            shutil.copy(ROOT / name, self.project)
        (self.project / "dvc.yaml").write_text(yaml.safe_dump(WIRING, sort_keys=False))
        (self.project / "stages.py").write_text(STAGES)
        (self.project / "source.txt").write_text("interactions ")
        (self.project / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
        (self.project / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
        self.write_preset(PRESET)
        git(self.project, "init", "--quiet", "--initial-branch", "main")
        self.commit("project")

    def write_preset(self, preset: dict[str, Any], name: str = DATASET) -> None:
        (self.project / "presets" / f"{name}.yaml").write_text(yaml.safe_dump(preset, sort_keys=False))

    def commit(self, message: str) -> str:
        git(self.project, "add", ".")
        git(self.project, "commit", "--quiet", "--allow-empty", "-m", message)
        return git(self.project, "rev-parse", "HEAD")

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables of the deployment."""
        return {
            "ATSPEED_HOME": str(self.home),
            "ATSPEED_REPOSITORY": str(self.project),
            "ATSPEED_DATASET": DATASET,
            "MLFLOW_TRACKING_URI": self.server,
            "CONTROL": str(self.control),
        }

    def start(self, command: str, *arguments: str, folder: Path, **settings: str) -> "subprocess.Popen[str]":
        """Start a nightly command in a session of its own; its output goes to a file beside `folder`."""
        environment = {**os.environ, **self.settings, "PYTHONPATH": str(ROOT), **settings}
        return subprocess.Popen(
            [sys.executable, "-m", f"tasks.nightly.{command}", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, *arguments: str, folder: Path, code: int = 0, **settings: str) -> str:
        """Run a nightly command that has to end with `code`; returns what it printed."""
        with self.start(command, *arguments, folder=folder, **settings) as process:
            output = process.communicate(timeout=120)[0]
        assert process.returncode == code, output
        return output

    def answer(self, command: str, *arguments: str, folder: Path, **settings: str) -> dict[str, Any]:
        """Run a nightly command that has to succeed; returns its answer."""
        path = self.folder / f"answer-{time.time_ns()}.json"
        self.run(command, *arguments, folder=folder, ATSPEED_ANSWER=str(path), **settings)
        return dict(json.loads(path.read_text()))

    def run_stage_here(self, *arguments: str, folder: Path) -> None:
        """Run a stage that has to succeed without MLflow; `run_stage` imports DVC, so it is called in this process."""
        site = str(folder / ".dvc" / "tmp" / "site")
        # The command sets these; `call` restores them.
        left_behind = {
            "ATSPEED_OWNER": "",
            "ATSPEED_RUN_ID": "",
            "DVC_SITE_CACHE_DIR": site,
            "PATH": os.environ["PATH"],
        }
        settings = {**self.settings, **left_behind, "MLFLOW_TRACKING_URI": NOBODY, "PYTHONPATH": str(ROOT)}
        handler = signal.getsignal(signal.SIGTERM)
        done = call("tasks.nightly.run_stage", *arguments, folder=folder, **settings)
        signal.signal(signal.SIGTERM, handler)
        assert done.exit_code == 0, done.output

    def say(self, *names: str) -> None:
        """Tell the stages how to misbehave."""
        for file in self.control.iterdir():
            file.unlink()
        for name in names:
            (self.control / name).touch()

    def told(self, event: str) -> list[str]:
        """The outputs that a stage told `event` of, in order."""
        log = self.control / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split()[1] for line in lines if line.startswith(event)]

    def times(self, event: str) -> list[float]:
        return [float(line.split()[2]) for line in (self.control / "log").read_text().splitlines() if event in line]


def processes_in(folder: Path) -> list[psutil.Process]:
    """What runs with `folder` as its working folder."""
    alive = [p for p in psutil.process_iter(["cwd", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]
    return [process for process in alive if process.info["cwd"] == str(folder)]
