"""What a trigger form offers: the data sets of presets/ and the stages of the pipeline. By name only, for speed."""

import os

from atspeed_dags.command import PROJECT

METHODS = ["sft", "atspeed_s", "atspeed_r"]
DATASETS = sorted(path.stem for path in (PROJECT / "presets").glob("*.yaml"))
DEFAULT_DATASET = os.environ.get("ATSPEED_DATASET") or "ml-latest-small-2016"
