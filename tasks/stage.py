"""What every stage command shares: checked params, log lines, exit codes and the record for MLflow."""

import errno
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from atspeed_core.errors import TemporaryError, UserError
from atspeed_core.settings import Params, load_params

EXIT_USER_ERROR = 2
EXIT_TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h
TEMPORARY_ERRNOS = {errno.ENOSPC, errno.EDQUOT}

ParamsPath = Annotated[Path, typer.Option("--params", help="The params.yaml to read.")]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metric:
    """A figure, and the step (epoch, update, K) it belongs to."""

    name: str
    value: float
    step: int


@dataclass
class Run:
    """A run of a stage: its params, and what it wants on record.

    Attributes:
        stage: name of the stage.
        method: draft alignment method, in the stages that have one.
        params: the checked content of `params.yaml`.
        metrics: what `metric` was told, in order.
        facts: what `log_param` was told.
        artifacts: what `artifact` was told.
    """

    stage: str
    method: str | None
    params: Params
    metrics: list[Metric] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    artifacts: list[Path] = field(default_factory=list)

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """Record a figure; `step` is an epoch, an update or a K."""
        self.metrics.append(Metric(name, float(value), step))

    def log_param(self, name: str, value: object) -> None:
        """Record a fact about this run beside its params."""
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
    set_up_logging(name, method)
    try:
        run = Run(name, method, load_params(params))
        yield run
    except UserError as error:
        end(EXIT_USER_ERROR, str(error))
    except TemporaryError as error:
        end(EXIT_TEMPORARY, str(error))
    except OSError as error:
        if error.errno not in TEMPORARY_ERRNOS:
            raise
        end(EXIT_TEMPORARY, f"{error}; free some space and run again")


def end(code: int, message: str) -> None:
    """Say in one line what is wrong and leave."""
    log.error("%s", " ".join(message.split()))
    sys.exit(code)


def set_up_logging(name: str, method: str | None) -> None:
    """Log to stderr, with time and stage in each line."""
    label = f"{name}@{method}" if method else name
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {label} %(levelname)s: %(message)s", force=True)
