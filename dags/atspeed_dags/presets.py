"""What a trigger form offers: the data sets of presets/ and the stages of the pipeline. By name only, for speed."""

import os

from airflow.sdk import Param

from atspeed_dags.command import PROJECT

METHODS = ["sft", "wordkd", "tvdkd", "seqkd", "dare", "atspeed_s", "atspeed_r", "prefix_containment", "one_shot"]
DEFAULT_METHODS = ["sft", "atspeed_s", "atspeed_r", "one_shot"]
DATASETS = sorted(path.stem for path in (PROJECT / "presets").glob("*.yaml"))
DEFAULT_DATASET = os.environ.get("ATSPEED_DATASET") or "ml-latest-small-2016"


def dataset_param(description: str) -> Param:
    """The choice of a data set in a trigger form."""
    choices = sorted({*DATASETS, DEFAULT_DATASET})
    return Param(DEFAULT_DATASET, type="string", enum=choices, title="Data set", description=description)
