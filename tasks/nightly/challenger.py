"""The challenger of a night, read from its checkout before anything is registered."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atspeed_core.errors import UserError
from atspeed_core.evaluation.inputs import read_stage_json
from atspeed_core.metrics import of_decoding, of_lists
from atspeed_core.settings import Params, load_params
from tasks.deployment.checkout import repository_address
from tasks.deployment.model_registry import COMMIT, DATASET, DATE, METHOD, RUN, TAG, registered_name
from tasks.deployment.weights import locked_digests, paths_of
from tasks.environment import Deployment
from tasks.git import commit_of
from tasks.nightly.night import Night
from tasks.paths import PROCESSED, RESULTS
from tasks.presets import Gate, load_preset
from tasks.promotion import evidence

Json = dict[str, Any]

COLUMNS = {  # of the table in the description of a version
    **{metric.name: metric.label for metric in of_decoding() if metric.in_tables},
    "walltime_speedup": "WS",
    "latency_ms_p95": "p95 ms",
    "identical_lists": "identical",
    **{metric.name: metric.label for metric in of_lists() if metric.in_tables},
}


@dataclass(frozen=True)
class Challenger:
    """The models to register.

    Attributes:
        night: that trained them.
        run: id of the parent run.
        commit: of the night, tagged.
        method: of the draft that serves.
        params: of the night.
        gate: thresholds of the night.
        figures: K -> figures of the method's strict lists.
        digests: path -> md5, of the night's dvc.lock.
    """

    night: Night
    run: str
    commit: str
    method: str
    params: Params
    gate: Gate
    figures: Json
    digests: dict[str, str]

    @property
    def tags(self) -> dict[str, str]:
        """The origin of every registered version."""
        night = self.night
        origin = {COMMIT: self.commit, TAG: night.tag, DATE: night.date, DATASET: night.dataset}
        return {**origin, METHOD: self.method, RUN: self.run}

    def name(self, part: str) -> str:
        """Name of the registered model."""
        return registered_name(self.night.dataset, part)

    @property
    def data(self) -> tuple[str, str]:
        """Name and digest of the processed data."""
        return self.night.dataset, self.digests[str(PROCESSED)].removesuffix(".dir")

    @property
    def judged(self) -> Json:
        """Figures at the K of the gate."""
        return dict(self.figures[str(self.gate.k)])


def read_challenger(night: Night) -> Challenger:
    """Read the challenger in the current checkout.

    Raises:
        UserError: the night has no parent run or tag yet, or an evaluation is missing.
    """
    if night.mlflow_run_id is None:
        raise UserError("night.json: 'mlflow_run_id' is missing; open the night again while MLflow answers")
    gate = load_preset(night.dataset).nightly.gate.with_changes(night.gate)
    figures = {method: strict_figures(method, gate.k) for method in night.methods}
    method = min(figures, key=lambda name: (figures[name][str(gate.k)]["target_calls"], name))
    return Challenger(
        night=night,
        run=night.mlflow_run_id,
        commit=tagged_commit(night.tag),
        method=method,
        params=load_params(Path("params.yaml")),
        gate=gate,
        figures=figures[method],
        digests=locked_digests(Path("dvc.lock").read_text(encoding="utf-8")),
    )


def strict_figures(method: str, k: int) -> Json:
    """K -> figures of a method's strict lists; `k` is one of the keys.

    Raises:
        UserError: the method was not evaluated, or not at `k`.
    """
    path = RESULTS / f"{method}.json"
    by_k = read_stage_json(path, "evaluate")["verifications"].get(evidence.VERIFICATION, {})
    if str(k) not in by_k:
        raise UserError(f"{path}: no strict figures at K = {k}; name this K in evaluate.ks, or another in the gate")
    return dict(by_k)


def tagged_commit(tag: str) -> str:
    """The commit that a git tag names.

    Raises:
        UserError: there is no such tag.
    """
    commit = commit_of(f"refs/tags/{tag}")
    if commit is None:
        raise UserError(f"git tag '{tag}' does not exist; run commit_night first")
    return commit


def manifest(challenger: Challenger) -> Json:
    """The source of the recommender's weights and its decoding settings: model_config of the logged model."""
    paths = paths_of(challenger.method)
    return {
        "repository": repository_address(),
        "commit": challenger.commit,
        "remote": Deployment.from_environment().dvc_remote,
        "method": challenger.method,
        "paths": {name: str(path) for name, path in paths.items()},
        "md5": {name: challenger.digests[str(path)] for name, path in paths.items() if str(path) in challenger.digests},
        "decoding": challenger.params.decoding().model_dump(),
    }


def description(challenger: Challenger) -> str:
    """Markdown: the night, and a table of the figures at every K."""
    night = challenger.night
    rows = [
        [k, *(f"{figures[name]:.4f}" if name in figures else "missing" for name in COLUMNS)]
        for k, figures in challenger.figures.items()
    ]
    table = [["K", *COLUMNS.values()], ["---"] * (1 + len(COLUMNS)), *rows]
    head = f"Night {night.date} of {night.dataset}, draft {challenger.method}, git tag {night.tag}; strict lists."
    return "\n".join([head, "", *("| " + " | ".join(row) + " |" for row in table)])
