"""The facts of one night, fixed when it is opened: night.json in its checkout.

Every later command of the night runs in the checkout and reads them there. So a task that is retried, tomorrow or on
another machine, works on the same commit, day, champion and thresholds.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from atspeed_core.files import write_json
from atspeed_core.validation import read_model
from tasks.deployment.model_registry import Champion
from tasks.paths import NIGHT


class Night(BaseModel):
    """One night.

    Attributes:
        run_id: of the DAG run; also ATSPEED_RUN_ID of the stages.
        date: the day whose interactions come in, YYYY-MM-DD (UTC).
        dataset: name of the preset, presets/DATASET.yaml.
        methods: draft alignment methods trained and evaluated.
        commit: of the code, pinned.
        tag: of the night's commit; set when the night is green.
        base_tag: tag of the night to whose interactions this one appends; None: the first night.
        champion: None where no model is in service yet.
        warm_start: whether training starts from the champion.
        force: stage that runs even if it is up to date ("all" for every one); None: none.
        dry_run: report what would be done; run no stage, commit and register nothing.
        mlflow_run_id: the parent run.
        gate: thresholds of this night that differ from the preset's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    date: str
    dataset: str
    methods: list[str]
    commit: str
    tag: str
    base_tag: str | None = None
    champion: Champion | None = None
    warm_start: bool = False
    force: str | None = None
    dry_run: bool = False
    mlflow_run_id: str | None = None
    gate: dict[str, Any] = {}

    def save(self, checkout: Path = Path()) -> None:
        """Write night.json into `checkout`."""
        write_json(checkout / NIGHT, self.model_dump())


def load_night(checkout: Path = Path()) -> Night:
    """Read night.json of `checkout`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return read_model(
        checkout / NIGHT,
        Night,
        if_missing="open a night first: python -m tasks.nightly.open_run --help",
        if_damaged="open the night again",
    )
