"""What a trigger form offers: the data sets of presets/ and the stages of the pipeline. By name only, for speed."""

import json
import os
from pathlib import Path

from airflow.sdk import Param

from atspeed_dags.command import PROJECT

# Written by `python -m scripts.dag_methods`; tests/dags/test_wiring.py holds it against the methods that there are.
_FORMS = json.loads((Path(__file__).parent / "methods.json").read_text(encoding="utf-8"))
METHODS: list[str] = _FORMS["methods"]
DEFAULT_METHODS: list[str] = _FORMS["wired"]
DATASETS = sorted(path.stem for path in (PROJECT / "presets").glob("*.yaml"))
DEFAULT_DATASET = os.environ.get("ATSPEED_DATASET") or "ml-latest-small-2016"


def dataset_param(description: str) -> Param:
    """The choice of a data set in a trigger form."""
    choices = sorted({*DATASETS, DEFAULT_DATASET})
    return Param(DEFAULT_DATASET, type="string", enum=choices, title="Data set", description=description)
