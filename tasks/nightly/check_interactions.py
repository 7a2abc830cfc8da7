"""Check the night's new days against the days before them, before any training time is spent."""

import logging
from dataclasses import asdict
from typing import Any

import pandas as pd
import typer

from atspeed_core.data.drift import Bounds, check_day
from atspeed_core.data.partitions import day_in, day_start, next_day, partitions, read_partitions
from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from atspeed_core.progress import track
from tasks.deployment.workflow import answer, command
from tasks.nightly.ingest import INTERACTIONS, base_date
from tasks.nightly.night import load_night
from tasks.nightly.parent_run import CHECKS
from tasks.presets import PRESETS, load_preset

MAX_REASONS = 10

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main() -> None:
    """Check the new days in data/interactions; write checks.json. Run in the night's checkout, after ingest."""
    with command("check_interactions"):
        night = load_night()
        after = base_date(night)
        bounds = Bounds(**load_preset(night.dataset).nightly.checks.model_dump())
        checks = _checks(read_partitions(INTERACTIONS), _new_days(after), bounds) if after else []
        if not checks:
            log.info("no earlier days or no new ones: nothing to compare")
        write_json(CHECKS, {"checks": checks})
        _log(checks)
        _require(checks, night.dataset)
        answer({"checks": [check for check in checks if check["day"] == checks[-1]["day"]]})


def _new_days(after: str) -> list[str]:
    return [day for path in partitions(INTERACTIONS) if (day := day_in(path.stem)) and day > after]


def _checks(interactions: pd.DataFrame, days: list[str], bounds: Bounds) -> list[dict[str, Any]]:
    """The checks of each day, in order, as JSON objects with the day in them."""
    if interactions["rating"].isna().all():
        interactions = interactions.drop(columns="rating")
    checks = []
    for day in track(days, "checking days"):
        start, end = day_start(day), day_start(next_day(day))
        times = interactions["timestamp"]
        earlier, current = interactions[times < start], interactions[(times >= start) & (times < end)]
        if not earlier.empty:
            checks += [{"day": day, **asdict(check)} for check in check_day(earlier, current, bounds)]
    return checks


def _log(checks: list[dict[str, Any]]) -> None:
    for check in checks:
        verdict = ("ok" if check["ok"] else "FAILED") if check["judged"] else "not judged, too few interactions"
        log.info("%s %s: %s (%s %s): %s", *(check[k] for k in ("day", "name")), *_figures(check), verdict)


def _figures(check: dict[str, Any]) -> tuple[str, str, str]:
    value = "-" if check["value"] is None else f"{check['value']:.3g}"
    return value, check["setting"], f"{check['bound']:g}"


def _require(checks: list[dict[str, Any]], dataset: str) -> None:
    failed = [check for check in checks if check["judged"] and not check["ok"]]
    if not failed:
        return
    reasons = [f"{c['day']}: {c['name']} is {v}, {s} is {b}" for c in failed[:MAX_REASONS] for v, s, b in [_figures(c)]]
    more = f"; ... and {len(failed) - MAX_REASONS} more" if len(failed) > MAX_REASONS else ""
    bounds = ", ".join(sorted({f"nightly.checks.{check['setting']}" for check in failed}))
    remedy = f"correct the day's file in the feed, or change {bounds} in {PRESETS / dataset}.yaml"
    raise UserError(f"{'; '.join(reasons)}{more}: {remedy}")


if __name__ == "__main__":
    app()
