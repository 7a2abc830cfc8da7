"""Checks of the images and of compose.yaml that need no engine; docker/try_build.sh builds the images."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = "airflow-init"
AIRFLOW = {ONE_SHOT, "api-server", "scheduler", "dag-processor", "triggerer", "worker-cpu", "worker-gpu"}
SET_BY_OUR_COMMANDS = {"ATSPEED_ANSWER", "ATSPEED_OWNER", "ATSPEED_RUN_ID", "ATSPEED_SENDER"}
WITH_A_DEFAULT = {f"ATSPEED_{name}" for name in ("DVC_REMOTE", "GIT_EMAIL", "GIT_NAME", "RETRIES", "RETRY_SECONDS")}
CONFIDENTIAL = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY|CONN|BROKER_URL|RESULT_BACKEND")


def tool(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).parent / name)


def run(*command: str, folder: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    run(tool("hadolint"), "--config", str(ROOT / ".hadolint.yaml"), str(dockerfile))


def test_compose_follows_the_schema_of_the_compose_specification() -> None:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    run(sys.executable, "-m", "check_jsonschema", *schema, str(DOCKER / "compose.yaml"))


def test_the_schema_refuses_a_misspelt_key(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {a: {image: x, helthcheck: {}}}")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(tmp_path / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "'helthcheck' was unexpected" in done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_hardened_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":\d+\.\d+[\w.-]*$", service["image"])
    user, _, group = str(service["user"]).partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name == ONE_SHOT:
        assert service["restart"] == "no"
        waiting = [other for other in AIRFLOW - {ONE_SHOT} if ONE_SHOT in SERVICES[other]["depends_on"]]
        assert set(waiting) == AIRFLOW - {ONE_SHOT}
    else:
        assert service["healthcheck"]["test"]
        assert {"interval", "timeout", "retries"} <= service["healthcheck"].keys()


def test_only_loopback_is_published() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_secret_stands_in_compose_or_in_an_image() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if CONFIDENTIAL.search(variable):
                assert variable.endswith(("_CMD", "_FILE", "PASSWORDS_FILE")), f"{name}: {variable}"
                path = str(value).removeprefix("cat ")
                if not variable.endswith("PASSWORDS_FILE"):
                    assert path.removeprefix("/run/secrets/") in service["secrets"], f"{name}: {variable}"
    for dockerfile in DOCKERFILES:
        assert not re.search(r"(?im)^(ENV|ARG).*(password|secret|token|://)", dockerfile.read_text())


def test_make_secrets_makes_each_secret_once(tmp_path: Path) -> None:
    shutil.copy(DOCKER / "make_secrets.sh", tmp_path)
    run("./make_secrets.sh", folder=tmp_path)
    folder = tmp_path / "secrets"
    secrets = {path.name: path.read_text() for path in folder.iterdir()}
    assert {Path(secret["file"]) for secret in COMPOSE["secrets"].values()} <= {
        Path("secrets", name) for name in secrets
    }
    assert folder.stat().st_mode & 0o077 == 0
    assert all(secrets[name].startswith(f"postgresql+{driver}://") for name, driver in DRIVERS.items())
    assert json.loads(secrets["airflow_passwords"]) == {"admin": secrets["airflow_admin_password"]}
    (folder / "redis_password").unlink()
    run("./make_secrets.sh", folder=tmp_path)
    again = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name for name in secrets if secrets[name] != again[name]} == {"redis_password"}


DRIVERS = {
    "airflow_database_url": "psycopg",
    "airflow_database_url_async": "asyncpg",
    "mlflow_database_url": "psycopg2",
    "mlflow_auth_database_url": "psycopg2",
}


def test_git_ignores_the_secrets() -> None:
    for name in ("docker/secrets/redis_password", "docker/.env"):
        run("git", "check-ignore", name)


def test_all_airflow_services_share_keys_and_addresses() -> None:
    first, *others = (SERVICES[name]["environment"] for name in sorted(AIRFLOW))
    assert all(other == first for other in others)
    assert first["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    lifetime = int(first["AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME"])
    assert lifetime == int(first["AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"])
    assert lifetime > 12 * 3600


def test_workers_take_the_queues_of_the_tasks() -> None:
    policy = (ROOT / "dags" / "atspeed_dags" / "policy.py").read_text()
    queues = set(re.findall(r'Place\("(\w+)"', policy))
    taken = [command for name in ("worker-cpu", "worker-gpu") for command in SERVICES[name]["command"]]
    assert queues == {"cpu", "gpu"}
    assert "${ATSPEED_CPU_QUEUES:-cpu}" in taken
    assert "gpu" in taken
    assert "pools set gpu" in (DOCKER / "airflow_entrypoint.sh").read_text()
    devices = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]


def test_what_the_dags_and_commands_read_from_the_environment_is_set() -> None:
    sources = [*(ROOT / "dags").rglob("*.py"), ROOT / "tasks" / "environment.py"]
    read = {name for path in sources for name in re.findall(r'"(ATSPEED_[A-Z_]+)"', path.read_text())}
    images = "".join(path.read_text() for path in DOCKERFILES)
    given = SERVICES["worker-gpu"]["environment"].keys() | set(re.findall(r"\b(ATSPEED_[A-Z_]+)=", images))
    assert {"ATSPEED_PYTHON", "ATSPEED_PROJECT", "ATSPEED_REPOSITORY"} <= read
    assert read - given <= SET_BY_OUR_COMMANDS | WITH_A_DEFAULT


def test_env_example_names_what_compose_asks_for() -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)", (DOCKER / "compose.yaml").read_text()))
    named = dict(re.findall(r"(?m)^([A-Z_]+)=(.*)$", (DOCKER / ".env.example").read_text()))
    assert named.keys() == asked


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_ends_as_a_user_and_copies_what_is_there(dockerfile: Path) -> None:
    lines = dockerfile.read_text().splitlines()
    assert re.fullmatch(r"USER 5000\d:5000\d", [line for line in lines if line.startswith("USER")][-1])
    assert "ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm" in lines
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            sources = [part for part in line.split()[1:-1] if not part.startswith("--")]
            assert all((ROOT / source).exists() for source in sources), line


@pytest.mark.parametrize("name", ["requirements.in", "requirements-airflow.in", "requirements-mlflow.in"])
def test_what_an_image_installs_is_in_the_lock(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    wanted = {plain(re.split(r"[\[=<>]", line)[0]) for line in lines if line[:1].isalpha()}
    locked = {plain(line.partition("==")[0]) for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert wanted
    assert wanted <= locked


def plain(name: str) -> str:
    """The normalised name of a package, by which pip compares."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_airflow_image_has_no_torch() -> None:
    assert "torch" not in re.sub(r"(?m)^#.*$", "", (ROOT / "requirements-airflow.in").read_text())


class Report(BaseHTTPRequestHandler):
    """Airflow's health report when the triggerer does not answer."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(b'{"scheduler": {"status": "healthy"}, "triggerer": {"status": "unhealthy"}}')

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def report() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Report)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_health_check_tells_a_silent_component_from_a_healthy_one(report: str) -> None:
    spec = importlib.util.spec_from_file_location("health", DOCKER / "health.py")
    assert spec is not None
    assert spec.loader is not None
    health = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(health)
    assert health.is_healthy(f"{report}/health")
    assert health.is_healthy(f"{report}/health", "scheduler")
    assert not health.is_healthy(f"{report}/health", "triggerer")
    assert not health.is_healthy(f"{report}/health", "dag_processor")
    assert not health.is_healthy(f"{report}/nowhere")
    assert not health.is_healthy("http://127.0.0.1:9/health", "scheduler")
