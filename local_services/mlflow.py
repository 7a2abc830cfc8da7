"""An MLflow server on loopback."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from local_services.servers import LOOPBACK, Server, answers


class MlflowServer:
    """One MLflow tracking server.

    Attributes:
        url: its address.
        server: the process.
    """

    def __init__(self, store: str, artifacts: Path, port: int, log: Path) -> None:
        """Describe the server; nothing starts yet.

        Args:
            store: address of the database.
            artifacts: folder of the artifacts, served by the server.
            port: on loopback.
            log: file of its output.
        """
        self.url = f"http://{LOOPBACK}:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port)]
        command += ["--artifacts-destination", str(artifacts), "--workers", "1"]
        command += ["--allowed-hosts", f"{LOOPBACK},{LOOPBACK}:{port},localhost,localhost:{port}"]
        self.server = Server("MLflow", command, _environment({"MLFLOW_BACKEND_STORE_URI": store}), log)

    def start(self, seconds: float = 120) -> None:
        """Start the server and wait until it answers."""
        self.server.start()
        self.server.wait_for(lambda: answers(f"{self.url}/health"), seconds)

    def stop(self) -> None:
        """End the server."""
        self.server.stop()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    disabled = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # these processes would take 1.3 GB and do nothing here
    return {**inherited, **disabled, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", **more}
