"""Decides whether a challenger may become champion. The evidence is read from MLflow, the verdict written there."""

import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from atspeed_core.verdict import Evidence, Verdict, judge
from tasks.deployment.model_registry import (
    ACCEPTED,
    CHALLENGER,
    DATE,
    GATE,
    METHOD,
    REASON,
    RECOMMENDER,
    REFUSED,
    ROLLED_BACK,
    RUN,
    Champion,
    champion_of,
    recommender_version,
    registered_name,
    version_of,
)
from tasks.deployment.workflow import NothingToDo, answer, command
from tasks.mlflow_store import mlflow_client
from tasks.presets import Gate
from tasks.promotion import evidence
from tasks.promotion.evidence import NightEvidence

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Json = dict[str, Any]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
log = logging.getLogger(__name__)


@app.command()
def main(
    dataset: Annotated[str, typer.Option(help="The preset's name.")],
    version: Annotated[str, typer.Option(help="Version of the registered recommender; default: the challenger.")] = "",
    gate: Annotated[str, typer.Option(help="Thresholds that differ from the night's, as JSON.")] = "{}",
    approved: Annotated[
        bool, typer.Option("--approved", help="A person approves, where the preset requires it.")
    ] = False,
) -> None:
    """Judge a version and tag it, and its night, with the verdict; a refusal ends with exit code 99."""
    with command("gate"):
        with mlflow_client() as client:
            version = version or challenger(client, dataset)
            verdict, approval = judge_version(client, dataset, version, parse_changes(gate))
        decision = {"accepted": verdict.accepted, "reasons": list(verdict.reasons), "approval": approval}
        answer({"dataset": dataset, "version": version, **decision})
        if not verdict.accepted:
            raise NothingToDo(f"version {version} is refused: {'; '.join(verdict.reasons)}")
        if approval and not approved:
            raise NothingToDo(
                f"version {version} is accepted and waits for approval: trigger promote with this version and Approved"
            )


def challenger(client: "MlflowClient", dataset: str) -> str:
    """The version that was registered last.

    Raises:
        UserError: there is none, or it was promoted.
    """
    name = registered_name(dataset, RECOMMENDER)
    if (version := version_of(client, name, CHALLENGER)) is None:
        raise UserError(f"{name} has no challenger; run a night first, or name a --version")
    return version


def parse_changes(text: str) -> Json:
    """The value of --gate.

    Raises:
        UserError: it is no JSON object.
    """
    try:
        changes = json.loads(text or "{}")
    except ValueError as error:
        raise UserError(f"--gate: not valid JSON ({error}); give e.g. '{{\"tolerance\": 0.02}}'") from None
    if not isinstance(changes, dict):
        raise UserError("--gate: give a JSON object, e.g. '{\"tolerance\": 0.02}'")
    return changes


def judge_version(client: "MlflowClient", dataset: str, version: str, changes: Json) -> tuple[Verdict, bool]:
    """Judge a version against the current champion; returns the verdict and whether a person has to approve.

    The champion itself is not judged again: it is accepted, and its tags do not change.
    """
    registered, champion = recommender_version(client, dataset, version), champion_of(client, dataset)
    if champion and champion.version == version:
        return Verdict(True, (), {"champion": f"version {version} is the champion already"}), False
    with tempfile.TemporaryDirectory() as temporary:
        folder = client.download_artifacts(registered.tags[RUN], evidence.FOLDER, temporary)
        night = evidence.read(Path(folder), changes)
    verdict = objection(registered, night, champion, dataset) or judge_night(registered, night, champion)
    record(client, registered, verdict, night.gate)
    return verdict, night.gate.approval


def objection(
    registered: "ModelVersion", night: NightEvidence, champion: Champion | None, dataset: str
) -> Verdict | None:
    """A refusal where the evidence cannot be judged at all; None where it can."""
    reason = None
    compared = night.champion["of"]["version"] if night.champion else None
    current = champion.version if champion else None
    if when := registered.tags.get(ROLLED_BACK):
        command_line = f"python -m tasks.promotion.rollback --dataset {dataset}"
        reason = (
            f"version {registered.version} was rolled back ({when}); to restore it, roll back again: {command_line}"
        )
    elif compared != current:
        reason = (
            f"version {registered.version} was compared with {_called(compared)}, but the champion now is "
            f"{_called(current)}; run evaluate_champion and what follows in the night of {registered.tags[DATE]}"
        )
    return Verdict(False, (reason,), {"comparison": reason}) if reason else None


def judge_night(registered: "ModelVersion", night: NightEvidence, champion: Champion | None) -> Verdict:
    """The verdict of `atspeed_core.verdict` on a night's evidence."""
    k = night.gate.k
    challenger = evidence.evidence(
        night.challenger, night.challenger_users, k, str(registered.version), registered.tags[DATE]
    )
    opponent: Evidence | None = None
    if champion and night.champion and night.champion_users is not None:
        opponent = evidence.evidence(night.champion, night.champion_users, k, champion.version, champion.date)
    return judge(challenger, opponent, evidence.thresholds(night.gate))


def record(client: "MlflowClient", registered: "ModelVersion", verdict: Verdict, gate: Gate) -> None:
    """Tag the version and its night, and put gate.json and gate.md into the night's parent run."""
    run, tags = registered.tags[RUN], verdict_tags(verdict)
    for old in (name for name in registered.tags if name.startswith(REASON) and name not in tags):
        client.delete_model_version_tag(registered.name, str(registered.version), old)
    for old in (name for name in client.get_run(run).data.tags if name.startswith(REASON) and name not in tags):
        client.delete_tag(run, old)
    for name, text in tags.items():
        client.set_model_version_tag(registered.name, str(registered.version), name, text)
        client.set_tag(run, name, text)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        content = {"accepted": verdict.accepted, "reasons": verdict.reasons, "facts": verdict.facts}
        write_json(folder / "gate.json", {"version": registered.version, **content, "thresholds": gate.model_dump()})
        (folder / "gate.md").write_text(as_markdown(registered, verdict), encoding="utf-8")
        client.log_artifacts(run, str(folder))


def verdict_tags(verdict: Verdict) -> dict[str, str]:
    """Tags with the verdict and every reason."""
    reasons = {f"{REASON}{number}": reason for number, reason in enumerate(verdict.reasons, start=1)}
    return {GATE: ACCEPTED if verdict.accepted else REFUSED, **reasons}


def as_markdown(registered: "ModelVersion", verdict: Verdict) -> str:
    """The verdict as a Markdown page."""
    head = f"# Version {registered.version} ({registered.tags[DATE]}, {registered.tags[METHOD]}): "
    lines = [head + (ACCEPTED if verdict.accepted else REFUSED), ""]
    rows = [["", "judged", "finding"], ["---"] * 3]
    rows += [["no" if fact in verdict.reasons else "yes", name, fact] for name, fact in verdict.facts.items()]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _called(version: str | None) -> str:
    return f"version {version}" if version else "none"


if __name__ == "__main__":
    app()
