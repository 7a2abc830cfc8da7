"""Opens a night: a private checkout at a pinned commit, with the night's params, and its run in MLflow.

The facts of a night (commit, champion, tag of the previous night) are determined once. A retry, or a run that is
cleared after its checkout was removed, works on the same facts.
"""

import json
import logging
import re
import shutil
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from atspeed_core.errors import UserError
from atspeed_core.files import replacing
from tasks.deployment.checkout import (
    check_out,
    checkout_of,
    clone,
    commit_named,
    facts_of,
    night_before,
    reach_home,
    tag_prefix,
)
from tasks.deployment.dvc_project import LOCK_FILE, configure
from tasks.deployment.model_registry import Champion, accepted_before, current_champion
from tasks.deployment.workflow import answer, command
from tasks.environment import TRACKING_URI, Deployment
from tasks.nightly.night import Night, load_night
from tasks.nightly.parent_run import open_parent, reopen_parent
from tasks.params_file import merged, with_changes, write_params
from tasks.paths import NIGHT, PARAMS
from tasks.presets import PRESETS, Preset, load_preset
from tasks.wire_methods import known_methods, wire_methods

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class NightOptions:
    """The options of the command."""

    run_id: str
    date: str
    dataset: str
    methods: list[str]
    revision: str | None = None
    full_retrain: bool = False
    force: str | None = None
    dry_run: bool = False
    gate: dict[str, Any] = field(default_factory=dict)


@app.command()
def main(  # noqa: PLR0913 - one parameter per option of the command
    run_id: Annotated[str, typer.Option(help="Of the DAG run.")],
    date: Annotated[str, typer.Option(help="The day whose interactions come in, YYYY-MM-DD (UTC).")],
    dataset: Annotated[str, typer.Option(help="Name of the preset.")],
    methods: Annotated[
        str, typer.Option(help="Draft methods, separated by commas; default: those of the preset.")
    ] = "",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: ATSPEED_REVISION.")] = None,
    full_retrain: Annotated[bool, typer.Option("--full-retrain", help="Train from scratch.")] = False,
    force: Annotated[str | None, typer.Option(help="A stage that runs even if it is up to date, or all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be done; train nothing.")] = False,
    gate: Annotated[str, typer.Option(help="Thresholds of this night, as JSON.")] = "{}",
) -> None:
    """Create the night's private checkout and its run in MLflow; answer with both."""
    with command("open_run"):
        names = [name.strip() for name in methods.split(",") if name.strip()]
        thresholds = thresholds_in(gate)
        answer(
            open_night(NightOptions(run_id, date, dataset, names, revision, full_retrain, force, dry_run, thresholds))
        )


def open_night(options: NightOptions) -> dict[str, Any]:
    """The night's checkout and facts: the existing ones, or new ones.

    Raises:
        UserError: the options, the preset or the params are wrong; then nothing is left behind.
        TemporaryError: the shared folder, the repository or the tracking server cannot be reached.
    """
    check_options(options)
    reach_home()
    checkout, facts = checkout_of(options.run_id), facts_of(options.run_id)
    if not (checkout / NIGHT).exists():
        with replacing(checkout) as temporary:
            build(options, temporary, facts)
    night = load_night(checkout)
    check_same(options, night)
    keep_facts(checkout, facts)
    if night.mlflow_run_id:
        reopen_parent(night.mlflow_run_id)
    log.info("night %s of %s at %s in %s", night.date, night.dataset, night.commit[:10], checkout)
    return {
        "checkout": str(checkout),
        **night.model_dump(include={"methods", "date", "commit", "warm_start", "mlflow_run_id"}),
    }


def check_options(options: NightOptions) -> None:
    """Check what can be checked without repository and preset.

    Raises:
        UserError: the run id or the date is wrong, or no tracking server is specified.
    """
    if Deployment.from_environment().tracking_uri is None:
        raise UserError(f"{TRACKING_URI} is not set; name the tracking server, the same on all machines")
    if not re.fullmatch(r"[\w.~:+-]+", options.run_id):
        raise UserError(f"--run-id '{options.run_id}': use only letters, digits and _ . ~ : + -")
    try:
        day = date.fromisoformat(options.date)
    except ValueError:
        raise UserError(f"--date '{options.date}': not a day; write it like 2016-10-05") from None
    if day.isoformat() != options.date:
        raise UserError(f"--date '{options.date}': write it like {day.isoformat()}")
    if day > datetime.now(UTC).date():
        raise UserError(f"--date {options.date} is in the future (today is {datetime.now(UTC):%Y-%m-%d} in UTC)")


def check_same(options: NightOptions, night: Night) -> None:
    """Refuse a second night with the same run id.

    Raises:
        UserError: date or data set differ.
    """
    requested, existing = f"{options.date} of {options.dataset}", f"{night.date} of {night.dataset}"
    if requested != existing:
        raise UserError(f"run {options.run_id} was opened for {existing}, not for {requested}; choose another --run-id")


def build(options: NightOptions, checkout: Path, facts: Path) -> None:
    """Clone into `checkout` and determine the facts of the night, unless `facts` has them from an earlier opening."""
    earlier = load_night(facts) if (facts / NIGHT).exists() else None
    clone(checkout)
    revision = earlier.commit if earlier else options.revision or Deployment.from_environment().revision
    commit = check_out(revision, checkout)
    configure(checkout)
    if earlier:
        shutil.copyfile(facts / PARAMS, checkout / PARAMS)
    night = earlier or new_night(options, commit, checkout)
    # dvc.lock names data of whoever committed the code, and no cache of ours may have them: DVC would consider a stage
    # up to date and fail to fetch its outputs. DVC's run cache restores what the nights have run before.
    (checkout / LOCK_FILE).unlink(missing_ok=True)
    wire_methods(checkout, night.methods)
    night.save(checkout)


def keep_facts(checkout: Path, facts: Path) -> None:
    """Save the facts in a place that outlives the checkout."""
    if not (facts / NIGHT).exists():
        with replacing(facts) as temporary:
            temporary.mkdir()
            for name in (NIGHT, PARAMS):
                shutil.copyfile(checkout / name, temporary / name)


def new_night(options: NightOptions, commit: str, checkout: Path) -> Night:
    """Check the options against the repository, set the params and open the run in MLflow; returns the facts.

    Raises:
        UserError: there is no such preset, method or stage, or a param or threshold is wrong.
        TemporaryError: the tracking server does not answer.
    """
    preset = load_preset(options.dataset, checkout / PRESETS)
    check_stage(options.force, checkout)
    preset.nightly.gate.with_changes(options.gate)  # refuses what the gate would not understand
    methods = known_methods(options.methods or list(preset.methods))
    set_params(checkout, options.dataset, preset, None)  # errors are found before a request to a server
    champion = current_champion(options.dataset)
    origin = None if starts_cold(options, preset) else warm_start_from(options, champion, checkout)
    set_params(checkout, options.dataset, preset, origin)
    night = Night(
        run_id=options.run_id,
        date=options.date,
        dataset=options.dataset,
        methods=methods,
        commit=commit,
        tag=f"{tag_prefix(options.dataset)}{options.date}",
        base_tag=night_before(options.dataset, options.date, checkout),
        champion=champion,
        warm_start=origin is not None,
        force=options.force,
        dry_run=options.dry_run,
        gate=options.gate,
    )
    return night if night.dry_run else night.model_copy(update={"mlflow_run_id": open_parent(night, origin)})


def check_stage(name: str | None, checkout: Path) -> None:
    """Refuse to force a stage that dvc.yaml of `checkout` does not hold.

    Raises:
        UserError: there is no such stage.
    """
    stages = yaml.safe_load((checkout / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    if name not in (None, "all", *stages):
        raise UserError(f"--force '{name}': no such stage; known: all, {', '.join(stages)}")


def thresholds_in(text: str) -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        UserError: it is no JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"--gate '{text}': not a JSON object; write it like {{\"tolerance\": 0.02}}")
    return value


def starts_cold(options: NightOptions, preset: Preset) -> bool:
    """Whether this night trains from scratch, on request or because `full_retrain_days` of the preset have passed."""
    days = preset.nightly.full_retrain_days
    return options.full_retrain or (days > 0 and date.fromisoformat(options.date).toordinal() % days == 0)


def warm_start_from(options: NightOptions, champion: Champion | None, checkout: Path) -> str | None:
    """The commit whose models training starts from; None: from scratch.

    In a backfill the champion may have been trained on the night's day or a later one. Then it is the newest accepted
    model that was not.
    """
    if champion and champion.date >= options.date:
        champion = accepted_before(options.dataset, options.date)
    if champion and commit_named(champion.commit, checkout) is None:
        log.warning(
            "the repository lacks commit %s of champion %s: training from scratch", champion.commit, champion.version
        )
        return None
    return champion.commit if champion else None


def set_params(checkout: Path, dataset: str, preset: Preset, origin: str | None) -> None:
    """Apply the preset and the start of training to params.yaml of `checkout`.

    Raises:
        UserError: a value is wrong.
    """
    path = checkout / PARAMS
    changes = merged(preset.params, {"warm_start": {"commit": origin}})
    text = with_changes(path.read_text(encoding="utf-8"), changes)
    write_params(path, text, source=f"{PRESETS / dataset}.yaml")


if __name__ == "__main__":
    app()
