"""`make paper DATASET=NAME`: every method on a data set with the paper's settings, our table beside the published one.

A run has a checkout of its own in paper/NAME, so the project's models and results stay as they are. There DVC keeps
what is done: a run that was stopped goes on when it is called again, and a method that fails leaves the others alone.
"""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml

from atspeed_core.errors import UserError
from atspeed_core.evaluation.inputs import read_stage_json
from atspeed_core.evaluation.paper import PaperRun, paper_markdown, tables
from atspeed_core.evaluation.results import combine, load_results
from atspeed_core.files import read_json, replacing, write_json
from atspeed_core.settings import Method, load_params
from tasks.nightly.checkout import git
from tasks.nightly.preset import PRESETS, load_preset
from tasks.paths import PROCESSED, RESULTS
from tasks.pipeline import only_run
from tasks.processes import end_orphans, end_with, make_above, own_children
from tasks.report import show, write_text
from tasks.stage import exit_codes, set_up_logging
from tasks.wire_methods import known_methods, wire_methods

Json = dict[str, Any]

CHECKOUTS = Path("paper")
TABLES = RESULTS / "paper"
DATASETS = PRESETS / "datasets"
PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")
IDENTIFIERS = "data/raw/atspeed-beauty/beauty.LCRec-1e-3lr.json"
RELEASED: dict[str, Json] = {  # the identifiers that the paper's authors published; some belong to two or three items
    "beauty-release": {"build_identifiers": {"method": "file", "file": IDENTIFIERS, "collisions": "allow"}},
}
FILES = (("prepare_data", "path"), ("prepare_data", "items_path"), ("build_identifiers", "file"))  # named in params
WRITTEN_HERE = (":!results", ":!params.yaml", ":!dvc.lock", ":!dvc.yaml")  # what may differ from the commit that is run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    dataset: Annotated[str, typer.Argument(help="A file of presets/datasets/ (python -m tasks.use_dataset).")],
    method: Annotated[list[str] | None, typer.Option(help="Repeat for more; default: all methods.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-S", help="section.key=value over the preset; repeat for more.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of an ablation or sweep: its own checkout and section of the table.")] = "",
) -> None:
    """Train and evaluate every method on a data set; write results/paper/NAME.json and TABLE.md."""
    set_up_logging("paper")
    end_with(make_above())
    with exit_codes():
        methods = known_methods(method or get_args(Method))
        label = f"{dataset}-{name}" if name else dataset
        folder, commit = checked_out(CHECKOUTS / label)
        changes = changed_params(dataset, setting or [])
        set_params(folder, changes, methods)
        with only_run(folder / ".dvc" / "tmp" / "paper.lock"):
            end_orphans(folder)
            own_children(folder)
            code = reproduce(folder)
        run = collected(folder, dataset, label, commit, changes, methods)
        write_json(TABLES / f"{label}.json", run.as_json())
        write_text(TABLES / "TABLE.md", paper_markdown(read_runs(TABLES)))
        show(tables(run))
    sys.exit(code)


def checked_out(folder: Path) -> tuple[Path, str]:
    """A checkout of the project's commit, what DVC knows of earlier work in it kept; returns it and the commit.

    Raises:
        UserError: code was changed and not committed: the table names the commit that its figures are of.
    """
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN_HERE):
        raise UserError(f"{changed.split()[1]} was changed and not committed; commit it: the table names the commit")
    commit = git("rev-parse", "HEAD")
    if not (folder / ".git").exists():
        folder.parent.mkdir(exist_ok=True)
        git("clone", "--quiet", "--no-checkout", "--", str(Path.cwd()), str(folder))
    lock = (folder / LOCK).read_text(encoding="utf-8") if (folder / LOCK).exists() else None
    git("fetch", "--quiet", "origin", commit, folder=folder)
    git("checkout", "--quiet", "--force", "--detach", commit, folder=folder)
    if lock is not None:
        write_text(folder / LOCK, lock)
    return folder, commit


def changed_params(dataset: str, settings: list[str]) -> Json:
    """The preset's params with `settings` ("section.key=value") laid over them; paths as seen from everywhere.

    Raises:
        UserError: there is no such preset, or a setting is no assignment.
    """
    changes: Json = load_preset(dataset, DATASETS).params
    laid(changes, deepcopy(RELEASED.get(dataset, {})))
    for text in settings:
        keys, equals, value = text.partition("=")
        if not equals or not all(keys.split(".")):
            raise UserError(f"--set {text}: expected section.key=value, such as align_draft.alpha=0.3")
        laid(changes, _nested(keys.split("."), yaml.safe_load(value)))
    for section, key in FILES:
        if changes.get(section, {}).get(key):
            changes[section][key] = str(Path(changes[section][key]).absolute())
    return changes


def set_params(folder: Path, changes: Json, methods: list[str]) -> None:
    """Write params.yaml and dvc.yaml of a checkout.

    Raises:
        UserError: the settings do not fit together.
    """
    params: Json = yaml.safe_load((folder / PARAMS).read_text(encoding="utf-8"))
    params["prepare_data"] = {}  # a setting that the preset does not name belongs to another data set
    with replacing(folder / PARAMS) as temporary:
        temporary.write_text(yaml.safe_dump(laid(params, changes), sort_keys=False), encoding="utf-8")
        load_params(temporary)
    wire_methods(folder, methods)


def reproduce(folder: Path) -> int:
    """Run what is out of date in a checkout; a stage that fails stops only what needs it. Returns the exit code."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # `python` in dvc.yaml
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--keep-going"]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, check=False).returncode


def collected(folder: Path, dataset: str, label: str, commit: str, changes: Json, methods: list[str]) -> PaperRun:
    """What the stages of a checkout left.

    Raises:
        UserError: not one method came through.
    """
    params = load_params(folder / PARAMS)
    results = load_results(folder / RESULTS, methods)
    facts = {"name": params.prepare_data.dataset, **read_stage_json(folder / PROCESSED / "stats.json", "prepare_data")}
    metrics = combine(facts, results, samples=params.evaluate.bootstrap_samples, seed=params.evaluate.seed)
    failed = [method for method in methods if method not in results.methods]
    settings = {key: value for key, value in changes.items() if key != "prepare_data"}
    return PaperRun(label, dataset, commit[:12], settings, metrics, failed)


def read_runs(folder: Path) -> list[PaperRun]:
    """The runs whose figures lie in `folder`, by name."""
    return [PaperRun(**read_json(path)) for path in sorted(folder.glob("*.json"))]


def laid(section: Json, changes: Json) -> Json:
    """`section` with `changes` laid over it, in place."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(section.get(key), dict):
            laid(section[key], value)
        else:
            section[key] = value
    return section


def _nested(keys: list[str], value: Any) -> Json:
    return {keys[0]: value if len(keys) == 1 else _nested(keys[1:], value)}


if __name__ == "__main__":
    app()
