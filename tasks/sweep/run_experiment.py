"""The second step of experiment_sweep, once per experiment: the whole pipeline in a checkout of its own.

Stages that several experiments share run once: all checkouts share DVC's cache and run cache, and an experiment waits
while another one does the same work up to the target. Its metrics.json is copied to the folder of the sweep.
"""

import fcntl
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from atspeed_core.errors import UserError
from atspeed_core.files import replacing, write_json
from tasks.deployment.checkout import check_out, checkout_of, clone
from tasks.deployment.dvc_project import configure, drop_stale_locks, dvc_project, exit_code_in
from tasks.deployment.workflow import answer, command
from tasks.environment import DVC_EXPERIMENT, RUN_ID, SENDER
from tasks.paths import PARAMS, RESULTS
from tasks.processes import end_orphans, end_tree, own_children
from tasks.record import OUTBOX
from tasks.sweep.plan_sweep import Experiment, Sweep, folder_of, load_sweep, set_params
from tasks.tracking import send_or_warn, send_pending
from tasks.wire_methods import wire_methods

if TYPE_CHECKING:  # takes a second to import
    from dvc.repo import Repo

METRICS_FILE, FAILURE = "metrics.json", "failure.json"
COMMON = ("cache_topk", "evaluate_target")  # these and all stages before them do not depend on the method
OF_A_METHOD = ("align_draft", "report")  # sections of params.yaml that these do not read
DATA = Path("data/interactions.dvc")  # of data sets with nights

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run_id: Annotated[str, typer.Option(help="Of the DAG run.")],
    name: Annotated[str, typer.Option(help="Of the experiment, from the answer of plan_sweep.")],
) -> None:
    """Run an experiment and save its metrics.json; a finished one is not run again."""
    with command("run_experiment"):
        signal.signal(signal.SIGTERM, lambda *_: end_tree())
        sweep = load_sweep(run_id)
        experiment = experiment_named(sweep, name)
        results = folder_of(run_id) / experiment.name
        checkout = checkout_of(f"{run_id}~{experiment.name}")
        if not (results / METRICS_FILE).exists():
            make_checkout(sweep, experiment, checkout)
            run(sweep, experiment, checkout, results)
        if checkout.exists():  # it is removed when all of its records have been sent to MLflow
            send_pending(checkout / OUTBOX)
            shutil.rmtree(checkout)
        answer({"name": experiment.name, "metrics": str(results / METRICS_FILE)})


def experiment_named(sweep: Sweep, name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        UserError: the sweep has none of that name.
    """
    for experiment in sweep.experiments:
        if experiment.name == name:
            return experiment
    known = ", ".join(experiment.name for experiment in sweep.experiments)
    raise UserError(f"--name '{name}': not an experiment of the sweep; known: {known}")


def make_checkout(sweep: Sweep, experiment: Experiment, checkout: Path) -> None:
    """Clone the pinned commit and set the experiment's params and method, unless an earlier attempt did."""
    if checkout.exists():
        return
    with replacing(checkout) as temporary:
        clone(temporary)
        check_out(sweep.commit, temporary)
        configure(temporary)
        set_params(temporary, sweep.dataset, experiment.overrides, temporary / PARAMS)
        wire_methods(temporary, [experiment.method])


def run(sweep: Sweep, experiment: Experiment, checkout: Path, results: Path) -> None:
    """Run the experiment's stages in `checkout` and write metrics.json or failure.json into `results`."""
    os.chdir(checkout)
    os.environ.update({RUN_ID: sweep.run_id, DVC_EXPERIMENT: experiment.name, SENDER: "run_experiment"})
    end_orphans(Path())
    own_children(Path())
    results.mkdir(parents=True, exist_ok=True)
    with dvc_project() as repo:
        drop_stale_locks(repo)
        if DATA.exists():
            repo.pull([str(DATA)])
        with only_one_at(results.parent / f".{common_work()}.lock"):
            reproduce(repo, list(COMMON), results)
        reproduce(repo, ["report"], results)
    with replacing(results / METRICS_FILE) as temporary:
        shutil.copyfile(RESULTS / METRICS_FILE, temporary)
    (results / FAILURE).unlink(missing_ok=True)


def reproduce(repo: "Repo", targets: list[str], results: Path) -> None:
    """Run the stages that `targets` need; if one fails, this process ends with the same exit code."""
    from dvc.exceptions import ReproductionError

    try:
        repo.reproduce(targets, pull=True)
    except ReproductionError as error:
        code = exit_code_in(error)
        if code is None:
            raise
        write_json(results / FAILURE, {"stage": str(error), "exit_code": code})
        log.error("%s", error)
        send_or_warn()
        sys.exit(code)


def common_work() -> str:
    """A hash of the params of all stages before the methods; experiments that share these stages share the hash."""
    params = yaml.safe_load(Path(PARAMS).read_text(encoding="utf-8"))
    shared = {section: values for section, values in params.items() if section not in OF_A_METHOD}
    return sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def only_one_at(path: Path) -> Iterator[None]:
    """Hold a lock until the block or the process ends; others wait for it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    app()
