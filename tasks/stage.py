"""The shell of every stage command: checked params, log lines, exit codes and the record for MLflow."""

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.settings import Params, load_params
from tasks.environment import Deployment
from tasks.processes import end_orphans, end_with_starter, own_children
from tasks.record import milliseconds, provenance, write_record
from tasks.threads import num_threads, use_threads
from tasks.tracking import send_or_warn

EXIT_USER_ERROR = 2
EXIT_TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h
TEMPORARY_ERRNOS = {errno.ENOSPC, errno.EDQUOT}

ParamsPath = Annotated[Path, typer.Option("--params", help="The params.yaml to read.")]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetricPoint:
    """A figure, its step (epoch, update or K), and when it was logged (ms since 1970)."""

    name: str
    value: float
    step: int
    time: int


@dataclass
class Run:
    """A run of a stage: its params and what it records.

    Attributes:
        stage: name of the stage.
        method: draft alignment method, in the stages that have one.
        params: the checked content of `params.yaml`.
        metrics: logged with `metric`, in order.
        facts: logged with `log_param`.
        artifacts: files recorded with `artifact`.
    """

    stage: str
    method: str | None
    params: Params
    metrics: list[MetricPoint] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    artifacts: list[Path] = field(default_factory=list)

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """Record a figure; `step` is an epoch, an update or a K."""
        self.metrics.append(MetricPoint(name, float(value), step, milliseconds()))

    def log_param(self, name: str, value: object) -> None:
        """Record a fact about this run in addition to its params."""
        self.facts[name] = str(value)

    def artifact(self, path: Path) -> None:
        """Record a file; it is copied when the stage ends."""
        self.artifacts.append(path)


@contextmanager
def stage(name: str, params: Path, *, method: str | None = None) -> Iterator[Run]:
    """Run the body of a stage command.

    A user's mistake ends the process with one line and exit code 2, a temporary fault with one line and exit
    code 75, anything else with its traceback and exit code 1.

    Args:
        name: name of the stage, as in `dvc.yaml` and `params.yaml`.
        params: the file of parameters.
        method: draft alignment method, in the stages that have one.

    Yields:
        The run, with its checked params.
    """
    end_with_starter(Path())
    set_up_logging(f"{name}@{method}" if method else name)
    with exit_codes():
        end_orphans(Path())
        own_children(Path())
        run = Run(name, method, load_params(params))
        threads = num_threads(run.params)
        use_threads(threads)
        run.log_param("threads", threads)
        started = milliseconds()
        origin = provenance(name, method, run.params)
        yield run
        _record(run, origin, started)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the errors of a command's body into one line and an exit code."""
    try:
        yield
    except UserError as error:
        _end(EXIT_USER_ERROR, str(error))
    except TemporaryError as error:
        _end(EXIT_TEMPORARY, str(error))
    except OSError as error:
        if error.errno not in TEMPORARY_ERRNOS:
            raise
        _end(EXIT_TEMPORARY, f"{error}; free some space and run again")


def set_up_logging(name: str) -> None:
    """Log to stderr, with time and stage in each line."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {name} %(levelname)s: %(message)s", force=True)


def _record(run: Run, origin: dict[str, Any], started: int) -> None:
    figures = {"metrics": [asdict(metric) for metric in run.metrics], "facts": run.facts}
    dataset = run.params.prepare_data.dataset
    try:
        write_record({**origin, **figures, "dataset": dataset, "started": started}, run.artifacts)
    except Exception as error:  # tracking must not stop the work that it tracks
        log.warning("MLflow: the record of this run could not be written: %s", " ".join(str(error).split()))
    if Deployment.from_environment().sender is None:
        send_or_warn()


def _end(code: int, message: str) -> NoReturn:
    log.error("%s", " ".join(message.split()))
    sys.exit(code)
