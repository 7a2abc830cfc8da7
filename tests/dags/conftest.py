"""The DAGs as Airflow's own DagBag reads them, with a temporary AIRFLOW_HOME."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="atspeed-airflow-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "false"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(ROOT / "dags")
sys.path.insert(0, str(ROOT / "dags"))


@pytest.fixture(scope="session")
def bag() -> Any:
    """All DAG files of dags/."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(ROOT / "dags"))
