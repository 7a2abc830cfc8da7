"""presets/NAME.yaml: a data set's changes to params.yaml, and how its nights are run."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from atspeed_core.errors import UserError
from atspeed_core.methods import wired_methods
from atspeed_core.settings import MethodName, Positive, Section, Share
from atspeed_core.validation import explain

PRESETS = Path("presets")  # those of data sets with nights
DATASETS, TARGETS = PRESETS / "datasets", PRESETS / "targets"


class Checks(Section):
    """Bounds of a day's interactions, checked before any training time is spent; see atspeed_core/data/drift.py.

    Attributes:
        window_days: number of earlier days that the day is compared with.
        volume_low: smallest number of interactions, as a share of the median of the earlier days.
        volume_high: largest number of interactions, as a multiple of that median.
        max_new_items: largest share of interactions with new items.
        max_new_users: largest share of interactions by new users.
        max_popularity_shift: largest population stability index of item popularity against the earlier days.
        max_rating_shift: largest Kolmogorov-Smirnov distance between the ratings and those of the earlier days.
        min_rows: with fewer interactions than these, shares and shifts are logged but not judged.
    """

    window_days: Positive = 28
    volume_low: Annotated[float, Field(ge=0)] = 0.1
    volume_high: Annotated[float, Field(gt=1)] = 10.0
    max_new_items: Share = 0.5
    max_new_users: Share = 0.9
    max_popularity_shift: Annotated[float, Field(gt=0)] = 1.0
    max_rating_shift: Share = 0.3
    min_rows: Positive = 200


class Gate(Section):
    """The conditions for a challenger to become champion; see atspeed_core/verdict.py.

    Attributes:
        k: list length that is judged.
        tolerance: by how much a judged metric (Recall, NDCG) may be lower than the champion's, absolute.
        risk: largest accepted probability, by the paired bootstrap, of a loss greater than `tolerance`.
        min_accepted_steps: smallest AS, strict verification.
        min_walltime_speedup: smallest WS, strict verification.
        max_latency_ratio: p95 latency over the champion's, judged on the same device only.
        approval: whether a person has to approve as well.
    """

    k: Positive = 10
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    risk: Share = 0.25
    min_accepted_steps: Annotated[float, Field(ge=0)] = 1.0
    min_walltime_speedup: Annotated[float, Field(ge=0)] = 0.0
    max_latency_ratio: Annotated[float, Field(gt=0)] = 1.5
    approval: bool = False

    def with_changes(self, changes: dict[str, Any]) -> "Gate":
        """The thresholds with the changes that a night or a person specified with --gate.

        Raises:
            UserError: a threshold is unknown or its value is wrong.
        """
        try:
            return Gate.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise UserError(f"--gate: {explain(error, Gate)}") from None


class Batch(Section):
    """Recommendations for every user, after a promotion."""

    k: Positive = 20
    users_per_shard: Positive = 10_000
    batch_size: Positive = 32


class Nightly(Section):
    """How the nights of a data set are run.

    Attributes:
        feed: folder of the days' interactions (YYYY-MM-DD.parquet or .csv); relative to ATSPEED_HOME, and
            feeds/NAME there by default.
        full_retrain_days: interval in days of training from scratch; 0: never.
    """

    feed: str | None = None
    checks: Checks = Checks()
    full_retrain_days: Annotated[int, Field(ge=0)] = 7
    gate: Gate = Gate()
    batch: Batch = Batch()


class Preset(Section):
    """The content of presets/NAME.yaml.

    Attributes:
        description: one line, shown in lists of presets.
        methods: draft alignment methods of a night.
        params: section of params.yaml -> the settings that change.
        nightly: how the nights are run.
    """

    description: str
    methods: Annotated[list[MethodName], Field(default_factory=wired_methods, min_length=1)]
    params: Annotated[dict[str, Any], Field(default_factory=dict)]
    nightly: Nightly = Nightly()


def load_preset(name: str, folder: Path = PRESETS) -> Preset:
    """Read and check presets/NAME.yaml.

    Raises:
        UserError: there is no such preset, it is no YAML mapping, or a value is wrong.
    """
    path = folder / f"{name}.yaml"
    try:
        return Preset.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise UserError(f"{path}: no such preset; known: {known}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, Preset)}") from None
