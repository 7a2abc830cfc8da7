"""`make paper DATASET=NAME`: every method on a data set with the paper's settings, our table next to the published one.

A run has a checkout of its own in paper/NAME, so the project's models and results do not change. DVC keeps its finished
stages: a run that was stopped resumes when it is started again, and a method that fails does not affect the others. All
runs use the project's DVC cache, so an ablation reuses target and cached sequences of earlier runs.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from atspeed_core.errors import UserError
from atspeed_core.evaluation.inputs import read_stage_json
from atspeed_core.files import read_json, write_json
from atspeed_core.reporting.paper_plot import paper_svg, variants_svg
from atspeed_core.reporting.paper_tables import PaperRun, paper_markdown, tables, variants_picture, with_variants
from atspeed_core.reporting.results import combine, load_results
from atspeed_core.settings import load_params, method_names
from tasks.git import git
from tasks.params_file import merged, nested, with_changes, with_presets, write_params
from tasks.paths import PARAMS, PROCESSED, RESULTS
from tasks.pipeline import REPRO, only_run, with_this_python
from tasks.presets import DATASETS, TARGETS, load_preset
from tasks.processes import end_orphans, end_with, make_above, own_children
from tasks.report import show, write_text
from tasks.stage import exit_codes, set_up_logging
from tasks.wire_methods import known_methods, wire_methods

Json = dict[str, Any]

CHECKOUTS = Path("paper")
TABLES = RESULTS / "paper"
LOCK = Path("dvc.lock")
IDENTIFIERS = "data/raw/atspeed-beauty/beauty.LCRec-1e-3lr.json"
AS_PUBLISHED: Json = {
    "cache_topk": {"rollouts_per_user": 0},
    "evaluate": {"published_users": None, "lossy_users": None},
}
# As the authors published it: some identifiers belong to several items, and lists may contain the user's own items.
RELEASED: dict[str, Json] = {
    "beauty-release": {
        "build_identifiers": {"method": "file", "file": IDENTIFIERS, "collisions": "allow"},
        "evaluate": {"exclude_history": False},
    },
}
FILES = (("prepare_data", "path"), ("prepare_data", "items_path"), ("build_identifiers", "file"))  # named in params
WRITTEN_HERE = (":!results", ":!params.yaml", ":!dvc.lock", ":!dvc.yaml")  # what may differ from the commit that is run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    dataset: Annotated[str, typer.Argument(help="A file of presets/datasets/ (python -m tasks.use_preset).")],
    target: Annotated[
        str | None, typer.Option(help="A file of presets/targets/; default: that of params.yaml.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Repeat for more; default: all methods.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", "-S", help="section.key=value over the preset; repeat for more.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of an ablation or sweep: its own checkout and section of the table.")] = "",
) -> None:
    """Train and evaluate every method on a data set; write results/paper/NAME.json, and of all runs so far TABLE.md."""
    set_up_logging("paper")
    end_with(make_above())
    with exit_codes():
        methods = known_methods(method or method_names())
        label = f"{dataset}-{name}" if name else dataset
        folder, commit = check_out(CHECKOUTS / label)
        presets = [DATASETS / dataset, *([TARGETS / target] if target else [])]
        changes = changed_params(presets, setting or [])
        set_params(folder, presets, changes, methods)
        with only_run(folder / ".dvc" / "tmp" / "paper.lock"):
            end_orphans(folder)
            own_children(folder)
            code = reproduce(folder)
        settings = merged(*(load_preset(path.name, path.parent).params for path in presets), changes)
        run = collect_results(folder, dataset, label, commit, settings, methods)
        write_json(TABLES / f"{label}.json", run.as_json())
        write_tables(TABLES)
        show(tables(run))
    sys.exit(code)


def check_out(folder: Path) -> tuple[Path, str]:
    """A checkout of the project's commit, with the dvc.lock of earlier work in it; returns it and the commit.

    Raises:
        UserError: code was changed and not committed: the table names the commit of its figures.
    """
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN_HERE):
        raise UserError(f"{changed.split()[1]} was changed and not committed; commit it: the table names the commit")
    commit = git("rev-parse", "HEAD")
    if not (folder / ".git").exists():
        folder.parent.mkdir(exist_ok=True)
        git("clone", "--quiet", "--no-checkout", "--", str(Path.cwd()), str(folder))
        share_cache(folder)
    lock = (folder / LOCK).read_text(encoding="utf-8") if (folder / LOCK).exists() else None
    git("fetch", "--quiet", "origin", commit, folder=folder)
    git("checkout", "--quiet", "--force", "--detach", commit, folder=folder)
    if lock is not None:
        write_text(folder / LOCK, lock)
    elif (folder / LOCK).exists():
        forget_absent(folder)
    return folder, commit


def share_cache(folder: Path) -> None:
    """Let a checkout use the project's DVC cache, so that it reuses what another run computed from the same inputs."""
    config = folder / ".dvc" / "config.local"
    config.parent.mkdir(exist_ok=True)
    write_text(config, f"[cache]\n    dir = {Path('.dvc/cache').absolute()}\n")


def forget_absent(folder: Path) -> None:
    """Remove from a new checkout's dvc.lock the stages whose outputs are not in the project's DVC cache.

    DVC considers such a stage up to date, does not find its outputs, and runs it again without looking for them in the
    run cache: the committed lock may be from another machine.
    """
    lock = yaml.safe_load((folder / LOCK).read_text(encoding="utf-8"))
    objects = Path(".dvc/cache/files/md5")

    def is_cached(stage: Json) -> bool:
        return all((objects / out["md5"][:2] / out["md5"][2:]).exists() for out in stage["outs"])

    lock["stages"] = {name: stage for name, stage in lock["stages"].items() if is_cached(stage)}
    write_text(folder / LOCK, yaml.safe_dump(lock, sort_keys=False))


def changed_params(presets: Sequence[Path], settings: Sequence[str]) -> Json:
    """The changes after the presets (the data set's first): `settings` ("section.key=value"), and absolute paths.

    Raises:
        UserError: there is no such preset, or a setting is no assignment.
    """
    preset = merged(*(load_preset(path.name, path.parent).params for path in presets))
    changes = merged(AS_PUBLISHED, RELEASED.get(presets[0].name, {}))
    for text in settings:
        keys, equals, value = text.partition("=")
        if not equals or not all(keys.split(".")):
            raise UserError(f"--set {text}: expected section.key=value, such as align_draft.alpha=0.3")
        changes = merged(changes, nested(keys, yaml.safe_load(value)))
    params = merged(preset, changes)
    for section, key in FILES:
        if path := params.get(section, {}).get(key):
            changes = merged(changes, {section: {key: str(Path(path).absolute())}})
    return changes


def set_params(folder: Path, presets: Sequence[Path], changes: Json, methods: list[str]) -> None:
    """Write params.yaml and dvc.yaml of a checkout.

    Raises:
        UserError: the settings do not fit together.
    """
    path = folder / PARAMS
    text = with_changes(with_presets(path.read_text(encoding="utf-8"), presets), changes)
    write_params(path, text, source="the presets and --set")
    wire_methods(folder, methods)


def reproduce(folder: Path) -> int:
    """Run the stale stages of a checkout; a failing stage stops only those that depend on it. Returns the exit code."""
    return subprocess.run([*REPRO, "--keep-going"], cwd=folder, env=with_this_python(), check=False).returncode


def collect_results(
    folder: Path, dataset: str, label: str, commit: str, settings: Json, methods: list[str]
) -> PaperRun:
    """The results of the stages of a checkout.

    Raises:
        UserError: every method failed.
    """
    params = load_params(folder / PARAMS)
    results = load_results(folder / RESULTS, methods)
    facts = {"name": params.prepare_data.dataset, **read_stage_json(folder / PROCESSED / "stats.json", "prepare_data")}
    metrics = combine(facts, results, samples=params.evaluate.bootstrap_samples, seed=params.evaluate.seed)
    failed = [method for method in methods if method not in results.methods]
    return PaperRun(label, dataset, commit[:12], shown_settings(settings), metrics, failed)


def shown_settings(settings: Json) -> Json:
    """The settings as the table lists them, with paths relative to the project."""
    shown = {section: own for section, own in settings.items() if section != "prepare_data"}
    for section, key in FILES:
        if path := shown.get(section, {}).get(key):
            shown[section] = {**shown[section], key: os.path.relpath(path)}
    return shown


def write_tables(folder: Path) -> None:
    """Write TABLE.md of all runs whose figures lie in `folder`, and its pictures."""
    runs = read_runs(folder)
    families = with_variants(runs)
    whole = {run.dataset for run, _ in families}
    for run in runs:
        if run.label == run.dataset or run.dataset not in whole:
            write_text(folder / f"{run.label}.svg", paper_svg(run))
    for run, family in families:
        if len(family) > 1:
            write_text(folder / variants_picture(run), variants_svg(run, family))
    write_text(folder / "TABLE.md", paper_markdown(runs))


def read_runs(folder: Path) -> list[PaperRun]:
    """The runs whose figures lie in `folder`, by name."""
    return [PaperRun(**read_json(path)) for path in sorted(folder.glob("*.json"))]


if __name__ == "__main__":
    app()
