"""A real MLflow server on the loopback, for the tests of what talks to one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_services.mlflow import MlflowServer
from local_services.servers import free_port


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Address of a running MLflow server whose database, artifacts and log are in `folder`."""
    server = MlflowServer(f"sqlite:///{folder}/mlflow.db", folder / "artifacts", free_port(), folder / "mlflow.log")
    try:
        server.start()
        yield server.url
    finally:
        server.stop()
