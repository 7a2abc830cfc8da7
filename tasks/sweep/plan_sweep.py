"""The first step of experiment_sweep: every method with every change of settings, checked before anything starts.

A sweep writes, in sweeps/RUN/ of ATSPEED_HOME: sweep.json (`Sweep`), NAME/metrics.json of each experiment and the table
that compares them.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict

from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from atspeed_core.validation import read_model
from tasks.deployment.checkout import check_out, clone, night_before, reach_home, safe_name
from tasks.deployment.workflow import answer, command
from tasks.environment import Deployment
from tasks.mlflow_store import experiment, find_or_create_run
from tasks.params_file import merged, nested, with_changes, write_params
from tasks.paths import PARAMS
from tasks.presets import PRESETS, load_preset
from tasks.tracking import PIPELINE_RUN, STATE
from tasks.wire_methods import known_methods

SWEEP = "sweep.json"
END_OF_TIME = "9999-12-31"
LONGEST_LABEL = 60

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Experiment(BaseModel):
    """One method with one change of settings.

    Attributes:
        name: of its folder and of its run in MLflow.
        method: of draft alignment.
        overrides: "section.key" -> value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    method: str
    overrides: dict[str, Any]


class Sweep(BaseModel):
    """The facts of a sweep, fixed when it is planned.

    Attributes:
        run_id: of the DAG run; also ATSPEED_RUN_ID of the stages.
        dataset: name of the preset.
        commit: of the code and data, pinned.
        mlflow_run_id: the parent run.
        experiments: methods x changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    dataset: str
    commit: str
    mlflow_run_id: str
    experiments: list[Experiment]


@app.command()
def main(
    run_id: Annotated[str, typer.Option(help="Of the DAG run.")],
    dataset: Annotated[str, typer.Option(help="Name of the preset.")],
    methods: Annotated[
        str, typer.Option(help="Draft methods, separated by commas; default: those of the preset.")
    ] = "",
    overrides: Annotated[str, typer.Option(help='JSON list of changes, [{"align_draft.alpha": 0.3}, ...].')] = "[{}]",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; default: the newest night, else ATSPEED_REVISION.")
    ] = None,
) -> None:
    """Check every change of settings and open the parent run; answer with the experiments."""
    with command("plan_sweep"):
        requested = experiments(methods_of(dataset, methods), changes_in(overrides))
        sweep = plan(run_id, dataset, requested, revision)
        answer({"experiments": [item.model_dump() for item in sweep.experiments], "commit": sweep.commit})


def plan(run_id: str, dataset: str, requested: list[Experiment], revision: str | None) -> Sweep:
    """The sweep of this run id: the existing one, or a new one.

    Raises:
        UserError: an experiment's params are wrong, or the run id belongs to another sweep.
        TemporaryError: the repository or the tracking server cannot be reached.
    """
    if not re.fullmatch(r"[\w.~:+-]+", run_id):
        raise UserError(f"--run-id '{run_id}': use only letters, digits and _ . ~ : + -")
    if (folder_of(run_id) / SWEEP).exists():
        existing = load_sweep(run_id)
        if (existing.dataset, existing.experiments) != (dataset, requested):
            raise UserError(f"--run-id {run_id} was planned with other experiments; choose another one")
        return existing
    commit = pinned_commit(dataset, requested, revision)
    sweep = Sweep(
        run_id=run_id,
        dataset=dataset,
        commit=commit,
        mlflow_run_id=open_parent(run_id, dataset, commit, len(requested)),
        experiments=requested,
    )
    write_json(folder_of(run_id) / SWEEP, sweep.model_dump())
    return sweep


def methods_of(dataset: str, methods: str) -> list[str]:
    """The methods in `methods`, separated by commas; those of the preset where it is empty."""
    names = [name.strip() for name in methods.split(",") if name.strip()]
    return known_methods(names or list(load_preset(dataset).methods))


def changes_in(text: str) -> list[dict[str, Any]]:
    """The list of changes in a JSON text; an empty list becomes one without a change.

    Raises:
        UserError: it is no JSON list of objects.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(change, dict) for change in value):
        raise UserError(
            f"--overrides '{text}': not a JSON list of objects; write it like [{{\"align_draft.alpha\": 0.3}}]"
        )
    return value or [{}]


def experiments(methods: list[str], changes: list[dict[str, Any]]) -> list[Experiment]:
    """Every method with every change, numbered."""
    pairs = [(method, change) for change in changes for method in methods]
    return [
        Experiment(name=f"{number:02d}-{method}{label(change)}", method=method, overrides=change)
        for number, (method, change) in enumerate(pairs, start=1)
    ]


def label(change: dict[str, Any]) -> str:
    """A short label of a change, valid in a file name."""
    texts = [f"-{key.rpartition('.')[2]}={value}" for key, value in change.items()]
    return re.sub(r"[^\w.=-]", "_", "".join(texts))[:LONGEST_LABEL]


def pinned_commit(dataset: str, requested: list[Experiment], revision: str | None) -> str:
    """The commit of the sweep, after a check of every experiment's params.

    Raises:
        UserError: there is no such revision or preset, or the params of an experiment are wrong.
    """
    reach_home()
    deployment = Deployment.from_environment()
    with tempfile.TemporaryDirectory(dir=deployment.checkouts, prefix=".plan-") as scratch:
        checkout = Path(scratch) / "checkout"
        clone(checkout)
        night = night_before(dataset, END_OF_TIME, checkout)
        commit = check_out(revision or night or deployment.revision, checkout)
        for item in requested:
            set_params(checkout, dataset, item.overrides, Path(scratch) / PARAMS)
    return commit


def set_params(checkout: Path, dataset: str, overrides: dict[str, Any], path: Path) -> None:
    """Write params.yaml of `checkout` to `path`, changed by the preset and the overrides; no warm start.

    Raises:
        UserError: a key is unknown (the nearest known one is named) or a value is out of its range.
    """
    preset = load_preset(dataset, checkout / PRESETS).params
    changes = merged(preset, {"warm_start": {"commit": None}}, *(nested(*item) for item in overrides.items()))
    text = with_changes((checkout / PARAMS).read_text(encoding="utf-8"), changes)
    write_params(path, text, source=f"--overrides {json.dumps(overrides)}")


def open_parent(run_id: str, dataset: str, commit: str, count: int) -> str:
    """The id of the sweep's run in MLflow; its stages find it by their pipeline run."""
    tags = {
        STATE: "open",
        "dataset": dataset,
        "atspeed.sweep": str(count),
        "mlflow.source.git.commit": commit,
    }
    with experiment() as (client, experiment_id):
        run = find_or_create_run(client, experiment_id, f"sweep {dataset}", (PIPELINE_RUN, run_id), tags)
        return str(run.info.run_id)


def folder_of(run_id: str) -> Path:
    """The folder of a sweep's results."""
    return Deployment.from_environment().sweeps / safe_name(run_id)


def load_sweep(run_id: str) -> Sweep:
    """Read sweep.json of a run.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return read_model(
        folder_of(run_id) / SWEEP,
        Sweep,
        if_missing="plan the sweep first: python -m tasks.sweep.plan_sweep",
        if_damaged="remove it and plan the sweep again",
    )


if __name__ == "__main__":
    app()
