"""Airflow on loopback: api-server, scheduler, dag-processor and triggerer, LocalExecutor."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from local_services.servers import LOOPBACK, Server, answers, free_port

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
ADMIN = "admin"


class Airflow:
    """One instance of Airflow with its components.

    Attributes:
        url: of the user interface and of the API.
        servers: component -> process.
    """

    def __init__(
        self, home: Path, dags: Path, database: str, *, port: int, parallelism: int, environment: Mapping[str, str]
    ) -> None:
        """Configure Airflow in `home`; nothing starts yet.

        Args:
            home: AIRFLOW_HOME: logs, the login.
            dags: folder of the DAG files.
            database: address of the metadata database, with its driver.
            port: of the api-server, on loopback.
            parallelism: how many tasks may run at the same time.
            environment: further variables that the tasks see.
        """
        self.home = home.absolute()
        self.home.mkdir(parents=True, exist_ok=True)
        self.url = f"http://{LOOPBACK}:{port}"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")},
            **self._settings(dags, database, port, parallelism),
            "PYTHONPATH": str(dags.absolute()),  # the triggerer imports the deadline's callback
            **environment,
        }
        self.servers = {name: self._server(name, port) for name in COMPONENTS}

    def migrate(self) -> None:
        """Bring the metadata database up to date."""
        self._run("db", "migrate")

    def create_gpu_pool(self, slots: int) -> None:
        """Create the pool `gpu` with one slot per GPU; deferred tasks keep theirs."""
        self._run("pools", "set", "gpu", str(slots), "One slot per GPU", "--include-deferred")

    def start(self) -> None:
        """Start all components and wait until they report healthy."""
        for server in self.servers.values():
            server.start()
        self.servers["api-server"].wait_for(self.is_healthy, 180)

    def stop(self) -> None:
        """End all components."""
        for server in reversed(self.servers.values()):
            server.stop()

    def is_healthy(self) -> bool:
        """Whether the api-server answers and reports the other components as healthy."""
        import requests

        if not answers(f"{self.url}/api/v2/version"):
            return False
        parts = requests.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
        return all(parts[name]["status"] == "healthy" for name in ("scheduler", "dag_processor", "triggerer"))

    def login(self) -> tuple[str, str]:
        """User name and password; Airflow generates the password when it first starts."""
        passwords = json.loads((self.home / "passwords.json").read_text(encoding="utf-8"))
        return ADMIN, str(passwords[ADMIN])

    def _settings(self, dags: Path, database: str, port: int, parallelism: int) -> dict[str, str]:
        options = {
            "CORE__DAGS_FOLDER": str(dags.absolute()),
            "CORE__LOAD_EXAMPLES": "false",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": str(parallelism),
            "CORE__MAX_ACTIVE_TASKS_PER_DAG": str(parallelism),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
            "CORE__FERNET_KEY": "",  # no connection with a password is stored in this database
            "DATABASE__SQL_ALCHEMY_CONN": database,
            "DATABASE__SQL_ALCHEMY_CONN_ASYNC": database.replace("+psycopg:", "+asyncpg:"),
            "API__HOST": LOOPBACK,
            "API__PORT": str(port),
            "API__BASE_URL": self.url,
            "API__WORKERS": "1",
            "API__SECRET_KEY": self._secret("api"),
            "API_AUTH__JWT_SECRET": self._secret("jwt"),
            "EXECUTION_API__JWT_EXPIRATION_TIME": str(24 * 3600),
            "DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
            "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "LOGGING__WORKER_LOG_SERVER_HOST": LOOPBACK,
        }
        return {"AIRFLOW_HOME": str(self.home), **{f"AIRFLOW__{name}": value for name, value in options.items()}}

    def _secret(self, name: str) -> str:
        """A secret that outlives restarts, in a file for its owner alone."""
        path = self.home / f"{name}.secret"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32), encoding="utf-8")
        return path.read_text(encoding="utf-8")

    def _server(self, component: str, port: int) -> Server:
        options = ["--host", LOOPBACK, "--port", str(port)] if component == "api-server" else []
        command = [sys.executable, "-m", "airflow", component, *options]
        log = self.home / "logs" / f"{component}.log"
        return Server(f"Airflow's {component}", command, self.environment, log, folder=self.home)

    def _run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "airflow", *arguments]
        run = subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"airflow {' '.join(arguments)} failed:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
