"""`make airflow`: PostgreSQL, MLflow and Airflow on loopback, until Ctrl-C."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from local_services.airflow import Airflow
from local_services.mlflow import MlflowServer
from local_services.postgres import Postgres
from local_services.servers import is_free

console = Console(stderr=True, highlight=False)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Option(help="Data, logs, checkouts and feeds of this instance.")] = Path(".airflow"),
    airflow_port: Annotated[int, typer.Option(help="Port of Airflow on loopback.")] = 8080,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow on loopback.")] = 5000,
    gpus: Annotated[int, typer.Option(help="Slots of the pool `gpu`.", min=1)] = 1,
    tasks: Annotated[int, typer.Option(help="Tasks that may run at the same time.", min=1)] = 4,
) -> None:
    """Start a local Airflow with MLflow, wait until both answer, print address and login."""
    for name, port in (("airflow-port", airflow_port), ("mlflow-port", mlflow_port)):
        if not is_free(port):
            sys.exit(f"port {port} is in use; choose another with --{name} (make airflow ARGS='--{name} {port + 1}')")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = folder.absolute()
    try:
        with running(folder, airflow_port, mlflow_port, gpus, tasks) as (airflow, mlflow):
            user, password = airflow.login()
            console.print(f"Airflow: {airflow.url}  user {user}, password {password}")
            console.print(f"MLflow:  {mlflow.url}")
            console.print(f"Feed of the nightly data: {folder / 'home' / 'feeds'}; logs: {folder}. Ctrl-C ends it.")
            while all(server.is_running() for server in airflow.servers.values()):
                time.sleep(1)
            sys.exit("a component of Airflow ended; see its log")
    except KeyboardInterrupt:
        console.print("ended")


@contextmanager
def running(
    folder: Path, airflow_port: int, mlflow_port: int, gpus: int, tasks: int
) -> Iterator[tuple[Airflow, MlflowServer]]:
    """Start all services; they end with the block."""
    with ExitStack() as ends:
        database = Postgres(folder / "postgres", folder / "postgres.log")
        ends.callback(database.stop)
        step("PostgreSQL", database.start)
        for name in ("airflow", "mlflow"):
            database.create_database(name)
        mlflow = MlflowServer(database.url("mlflow"), folder / "mlartifacts", mlflow_port, folder / "mlflow.log")
        ends.callback(mlflow.stop)
        step("MLflow", mlflow.start)
        home = folder / "home"
        step("the feed of the default data", lambda: make_feed(home / "feeds" / "ml-latest-small-2016"))
        environment = {"MLFLOW_TRACKING_URI": mlflow.url, "ATSPEED_HOME": str(home), "ATSPEED_PROJECT": str(Path.cwd())}
        dags = Path("dags").absolute()
        airflow = Airflow(
            folder / "airflow",
            dags,
            database.url("airflow"),
            port=airflow_port,
            parallelism=tasks,
            environment=environment,
        )
        ends.callback(airflow.stop)
        step("Airflow's database", airflow.migrate)
        step("the GPU pool", lambda: airflow.create_gpu_pool(gpus))
        step("Airflow", airflow.start)
        yield airflow, mlflow


def step(name: str, action: Callable[[], object]) -> None:
    """Perform one step of the start and print how long it took."""
    started = time.monotonic()
    with console.status(f"starting {name}"):
        action()
    console.print(f"{name}: {time.monotonic() - started:.1f} s")


def make_feed(folder: Path) -> None:
    """Fill the feed of the default data once; its last day is yesterday."""
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "scripts.replay_feed", str(folder)], check=True)


if __name__ == "__main__":
    app()
