"""What a run of a stage leaves for MLflow: a folder in outbox/, written whole, sent later (tasks/tracking.py).

It holds record.json (params, tags, metrics) and artifacts/ (copies of the files).
"""

import hashlib
import json
import re
import shutil
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from atspeed_core.files import replacing, write_json
from atspeed_core.settings import Params
from tasks.environment import Deployment
from tasks.git import git_if_possible
from tasks.processes import dvc_above

Json = dict[str, Any]

OUTBOX = Path("outbox")
CHUNK_BYTES = 1 << 20
GIT_SECONDS = 10  # a stage waits no longer to know its commit


def provenance(stage: str, method: str | None, params: Params) -> Json:
    """All that decides what a stage does: its params and the digests of its code and data, with their key.

    Two runs with one key are the same work. A stage that `dvc.yaml` of this folder does not hold has nothing to
    compare with: its key is new each time.
    """
    wired = _wiring(stage, method, _flatten(params))
    facts = {
        "stage": stage,
        "method": method,
        "params": flat_params(params, wired.get("params", list(type(params).model_fields))),
        "digests": {dep: digest(Path(dep)) for dep in wired.get("deps", [])},
        "unwired": None if wired else uuid.uuid4().hex,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
    return {**facts, "key": key}


def flat_params(params: Params, names: list[str]) -> dict[str, str]:
    """The sections or single settings `names` as "section.key" -> text."""
    every = _flatten(params)
    return {key: value for key, value in every.items() if any(f"{key}.".startswith(f"{name}.") for name in names)}


def digest(path: Path) -> str:
    """SHA-256 (16 digits) of a file, or of a folder's file names and contents; "missing" where there is none."""
    if not path.exists():
        return "missing"
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if _counts(file))
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                total.update(chunk)
    return total.hexdigest()[:16]


def pipeline_run() -> str | None:
    """The pipeline run that this stage belongs to; None for a stage started by hand."""
    if run_id := Deployment.from_environment().run_id:
        return run_id
    dvc = dvc_above()
    return f"dvc-{socket.gethostname()}-{dvc.pid}-{dvc.create_time():.0f}" if dvc else None


def milliseconds() -> int:
    """Now, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def write_record(record: Json, artifacts: list[Path], outbox: Path = OUTBOX) -> Path:
    """Put a record and copies of its files into the outbox; returns its folder.

    Args:
        record: stage, method, params, digests and key (`provenance`), started (ms), facts, metrics.
        artifacts: files or folders; one that does not exist is left out.
        outbox: where records wait.
    """
    folder = outbox / f"{milliseconds()}-{record['stage']}-{record['key'][:8]}"
    with replacing(folder) as temporary:
        (temporary / "artifacts").mkdir(parents=True)
        for path in filter(Path.exists, artifacts):
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, temporary / "artifacts" / path.name)
        write_json(temporary / "record.json", {**record, **surroundings(), "ended": milliseconds()})
    return folder


def surroundings() -> Json:
    """Pipeline run, commit and dvc.lock at this moment."""
    return {
        "pipeline_run": pipeline_run(),
        "experiment": Deployment.from_environment().dvc_experiment,
        "git_commit": git_if_possible("rev-parse", "HEAD", timeout=GIT_SECONDS),
        "git_changed": bool(git_if_possible("status", "--porcelain", "--untracked-files=no", timeout=GIT_SECONDS)),
        "dvc_lock": digest(Path("dvc.lock")),
    }


def _wiring(stage: str, method: str | None, values: dict[str, str]) -> Json:
    """Params and deps of the stage in `dvc.yaml`, with method and settings filled in; empty where it is not there."""
    try:
        stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        return {}
    known = {"item.method": method or "", **values}
    filled = re.sub(r"\$\{([^}]*)\}", lambda name: known.get(name[1], name[0]), json.dumps(stages.get(stage, {})))
    return dict(json.loads(filled))


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    if not isinstance(value, dict):
        return {prefix: value if isinstance(value, str) else json.dumps(value)}
    nested = [_flatten(inner, f"{prefix}.{key}".lstrip(".")) for key, inner in value.items()]
    return {key: text for part in nested for key, text in part.items()}


def _counts(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts
