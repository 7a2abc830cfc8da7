"""The gate's evidence: artifacts of a night's parent run in MLflow, written here and read back.

The gate needs no checkout: the figures of challenger and champion, one row per user, and the night's thresholds are
artifacts in gate/ of the parent run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from atspeed_core.evaluation.inputs import read_stage_json, read_stage_parquet
from atspeed_core.files import read_json, write_json
from atspeed_core.metrics import METRICS
from atspeed_core.verdict import Evidence, Thresholds
from tasks.paths import RESULTS
from tasks.presets import Gate

Json = dict[str, Any]

FOLDER = "gate"  # among the artifacts of the parent run
VERIFICATION = "strict"
STAGE = "evaluation of the night"


@dataclass(frozen=True)
class NightEvidence:
    """The evidence of one night.

    Attributes:
        challenger: content of results/METHOD.json.
        challenger_users: its rows of strict verification, one per user and K.
        champion: content of results/champion.json; None where the night had no champion.
        champion_users: its rows, likewise.
        gate: thresholds of the night.
    """

    challenger: Json
    challenger_users: pd.DataFrame
    champion: Json | None
    champion_users: pd.DataFrame | None
    gate: Gate


def collect(folder: Path, method: str, gate: Gate) -> None:
    """Copy the evidence of the night in the current checkout into `folder`."""
    folder.mkdir(parents=True)
    for role, name in (("challenger", method), ("champion", "champion")):
        figures, users = RESULTS / f"{name}.json", RESULTS / "per_user" / f"{name}.parquet"
        if role == "challenger" or figures.exists():
            write_json(folder / f"{role}.json", read_stage_json(figures, STAGE))
            read_stage_parquet(users, STAGE).to_parquet(folder / f"{role}.parquet", index=False)
        else:  # an earlier attempt may have written those of a champion
            write_json(folder / f"{role}.json", None)
    write_json(folder / "thresholds.json", gate.model_dump())


def read(folder: Path, changes: Json) -> NightEvidence:
    """Read what `collect` wrote; `changes` override thresholds of the night.

    Raises:
        UserError: `changes` contain an unknown threshold or a wrong value.
    """
    has_champion = read_json(folder / "champion.json") is not None
    return NightEvidence(
        challenger=read_json(folder / "challenger.json"),
        challenger_users=_strict(pd.read_parquet(folder / "challenger.parquet")),
        champion=read_json(folder / "champion.json"),
        champion_users=_strict(pd.read_parquet(folder / "champion.parquet")) if has_champion else None,
        gate=Gate.model_validate(read_json(folder / "thresholds.json")).with_changes(changes),
    )


def thresholds(gate: Gate) -> Thresholds:
    """The thresholds that the verdict depends on."""
    return Thresholds(**{name: getattr(gate, name) for name in Thresholds.__dataclass_fields__})


def evidence(figures: Json, users: pd.DataFrame, k: int, version: str, date: str) -> Evidence:
    """Evidence at `k`; a figure that is not in the files is None."""
    by_k = figures["verifications"][VERIFICATION]
    at_k = by_k.get(str(k), {})
    rows = users[users["k"] == k]
    return Evidence(
        version=version,
        date=date,
        method=figures["method"],
        users=tuple(rows["user_id"]),
        metrics={name: rows[name].to_numpy(dtype=np.float64) for name in METRICS.names() if name in rows},
        identical_lists={int(key): figures_at_k.get("identical_lists") for key, figures_at_k in by_k.items()},
        accepted_steps=at_k.get("accepted_steps"),
        walltime_speedup=at_k.get("walltime_speedup"),
        latency_ms_p95=at_k.get("latency_ms_p95"),
        device=figures["device"],
    )


def _strict(users: pd.DataFrame) -> pd.DataFrame:
    return users[users["verification"] == VERIFICATION]
