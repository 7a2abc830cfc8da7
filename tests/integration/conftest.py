"""PostgreSQL, MLflow and Airflow, started once for all tests of this folder, with a deployment of the project."""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from local_services.airflow import Airflow
from local_services.mlflow import MlflowServer
from local_services.postgres import Postgres
from local_services.servers import free_port
from tests.integration.airflow_api import AirflowApi
from tests.integration.deployment import DATASET, Deployment

ROOT = Path(__file__).resolve().parents[2]
# A night comes last, because the DAGs that it starts have to be active by then.
DAGS = sorted((path.stem for path in (ROOT / "dags").glob("*.py")), key=lambda name: name == "nightly_retrain")
FIRST_DAY = pd.Timestamp("2026-03-02", tz="UTC")


class AlertReceiver(HTTPServer):
    """Collects the alerts that it receives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.alerts: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/alerts"

    def of_run(self, run_id: str) -> list[dict[str, Any]]:
        return [alert for alert in self.alerts if alert.get("run_id") == run_id]


class _Handler(BaseHTTPRequestHandler):
    server: AlertReceiver

    def do_POST(self) -> None:
        self.server.alerts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@dataclass
class Stack:
    """Everything that runs."""

    database: Postgres
    mlflow: MlflowServer
    airflow: Airflow
    api: AirflowApi
    deployment: Deployment
    alerts: AlertReceiver
    home: Path
    folder: Path


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The services; their files stay in the folder ATSPEED_KEEP if that is set."""
    folder = Path(os.environ.get("ATSPEED_KEEP") or tempfile.mkdtemp(prefix="atspeed-services-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    home = folder / "home"
    alerts = AlertReceiver()
    threading.Thread(target=alerts.serve_forever, daemon=True).start()
    database = Postgres(folder / "postgres", folder / "postgres.log", durable=False)
    database.start()
    for name in ("airflow", "mlflow"):
        database.create_database(name)
    mlflow = MlflowServer(database.url("mlflow"), folder / "mlartifacts", free_port(), folder / "mlflow.log")
    deployment = Deployment(folder / "deployment", home)
    airflow = make_airflow(folder, database, mlflow, deployment, alerts)
    try:
        mlflow.start()
        airflow.migrate()
        airflow.create_gpu_pool(1)
        airflow.start()
        api = AirflowApi(airflow.url, airflow.login())
        yield Stack(database, mlflow, airflow, api, deployment, alerts, home, folder)
    finally:
        airflow.stop()
        mlflow.stop()
        database.stop()
        alerts.shutdown()


def make_airflow(
    folder: Path, database: Postgres, mlflow: MlflowServer, deployment: Deployment, alerts: AlertReceiver
) -> Airflow:
    """Airflow over the deployment's own DAG files; its cron fires just before now, so not again during the tests."""
    earlier = datetime.now(UTC) - timedelta(hours=1)
    environment = {
        "ATSPEED_PROJECT": str(deployment.folder),
        "ATSPEED_REPOSITORY": str(deployment.folder),
        "ATSPEED_REVISION": "main",
        "ATSPEED_HOME": str(folder / "home"),
        "ATSPEED_DATASET": DATASET,
        "ATSPEED_PYTHON": sys.executable,
        "ATSPEED_CRON": f"{earlier.minute} {earlier.hour} * * *",
        "ATSPEED_RETRIES": "2",
        "ATSPEED_RETRY_SECONDS": "2",
        "ATSPEED_ALERT_URL": alerts.url,
        "MLFLOW_TRACKING_URI": mlflow.url,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    }
    return Airflow(
        folder / "airflow",
        deployment.folder / "dags",
        database.url("airflow"),
        port=free_port(),
        parallelism=3,
        environment=environment,
    )
