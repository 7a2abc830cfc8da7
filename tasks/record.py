"""The record of a stage's run for MLflow: a folder in outbox/, written atomically and sent by tasks/tracking.py.

It contains record.json (params, tags, metrics) and artifacts/ (copies of the files).
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
GIT_SECONDS = 10  # a stage does not wait longer for its commit


def provenance(stage: str, method: str | None, params: Params) -> Json:
    """Everything that determines the result of a stage: its params, the digests of its code and data, and their key.

    Two runs with the same key are the same work. A stage that is not in `dvc.yaml` of this folder gets a new key each
    time.
    """
    wiring = _wiring(stage, method, _flatten(params))
    facts = {
        "stage": stage,
        "method": method,
        "params": flat_params(params, wiring.get("params", list(type(params).model_fields))),
        "digests": {dep: digest(Path(dep)) for dep in wiring.get("deps", [])},
        "unwired": None if wiring else uuid.uuid4().hex,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
    return {**facts, "key": key}


def flat_params(params: Params, names: list[str]) -> dict[str, str]:
    """The sections or single settings `names` as "section.key" -> text."""
    texts = _flatten(params)
    return {key: text for key, text in texts.items() if any(f"{key}.".startswith(f"{name}.") for name in names)}


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
    """The pipeline run that this stage belongs to; None: it was started by hand."""
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
        artifacts: files or folders; those that do not exist are skipped.
        outbox: folder of the records that were not sent yet.
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
    """The current pipeline run, experiment, commit and dvc.lock."""
    return {
        "pipeline_run": pipeline_run(),
        "experiment": Deployment.from_environment().dvc_experiment,
        "git_commit": git_if_possible("rev-parse", "HEAD", timeout=GIT_SECONDS),
        "git_changed": bool(git_if_possible("status", "--porcelain", "--untracked-files=no", timeout=GIT_SECONDS)),
        "dvc_lock": digest(Path("dvc.lock")),
    }


def _wiring(stage: str, method: str | None, values: dict[str, str]) -> Json:
    """Params and deps of the stage in `dvc.yaml`, with method and settings filled in; empty: there is no such stage."""
    try:
        stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        return {}
    variables = {"item.method": method or "", **values}
    text = re.sub(r"\$\{([^}]*)\}", lambda name: variables.get(name[1], name[0]), json.dumps(stages.get(stage, {})))
    return dict(json.loads(text))


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    if not isinstance(value, dict):
        return {prefix: value if isinstance(value, str) else json.dumps(value)}
    nested = [_flatten(inner, f"{prefix}.{key}".lstrip(".")) for key, inner in value.items()]
    return {key: text for part in nested for key, text in part.items()}


def _counts(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts
