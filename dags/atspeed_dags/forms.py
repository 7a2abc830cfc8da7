"""The fields of the trigger forms, and the data sets and methods that they offer: by name alone, for speed."""

import json
import os
from pathlib import Path
from typing import Any

from airflow.sdk import Param

from atspeed_dags.command import PROJECT

# Written by `python -m scripts.dag_methods`; tests/dags/test_nightly_retrain.py compares it with the methods in use.
_METHODS = json.loads((Path(__file__).parent / "methods.json").read_text(encoding="utf-8"))
METHODS: list[str] = _METHODS["methods"]
DEFAULT_METHODS: list[str] = _METHODS["wired"]
DATASETS = sorted(path.stem for path in (PROJECT / "presets").glob("*.yaml"))
DEFAULT_DATASET = os.environ.get("ATSPEED_DATASET") or "ml-latest-small-2016"


def dataset_param(description: str) -> Param:
    """The choice of a data set."""
    choices = sorted({*DATASETS, DEFAULT_DATASET})
    return Param(DEFAULT_DATASET, type="string", enum=choices, title="Data set", description=description)


def methods_param(default: list[str], description: str) -> Param:
    """The choice of draft alignment methods."""
    return Param(
        default,
        type="array",
        items={"type": "string", "enum": METHODS},
        examples=METHODS,
        minItems=1,
        title="Methods",
        description=description,
    )


def optional_text(title: str, description: str, **options: Any) -> Param:
    """A text that may be left empty; the command then takes what the description says."""
    return Param(None, type=["null", "string"], title=title, description=description, **options)


def optional_floor(title: str, description: str, **options: Any) -> Param:
    """A number from 0 on that may be left empty."""
    return Param(None, type=["null", "number"], minimum=0, title=title, description=description, **options)
