"""experiment_sweep, for each experiment: the whole pipeline in a checkout of its own, metrics.json kept.

What several experiments share is run once: DVC's cache and run cache are shared by all checkouts, and an experiment
waits while another one does the same work up to the target.
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
from tasks.deployment.command import answer, command
from tasks.deployment.dvc_project import configure, drop_stale_locks, dvc_project, exit_code_in
from tasks.environment import DVC_EXPERIMENT, RUN_ID, SENDER
from tasks.paths import PARAMS, RESULTS
from tasks.processes import end_orphans, end_tree, own_children
from tasks.record import OUTBOX
from tasks.sweep.plan_sweep import Experiment, Sweep, folder_of, load_sweep, set_params
from tasks.tracking import send_or_warn, send_pending
from tasks.wire_methods import wire_methods

if TYPE_CHECKING:  # takes a second to import
    from dvc.repo import Repo

METRICS, FAILURE = "metrics.json", "failure.json"
COMMON = ("cache_topk", "evaluate_target")  # the last stages that belong to no method; all before them, too
OF_A_METHOD = ("align_draft", "report")  # sections of params.yaml that those do not read
DATA = Path("data/interactions.dvc")  # of data sets that come in day by day

log = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run_id: Annotated[str, typer.Option(help="Of the DAG run.")],
    name: Annotated[str, typer.Option(help="Of the experiment, as plan_sweep answered it.")],
) -> None:
    """Run an experiment and keep its metrics.json; one that has been run is left alone."""
    with command("run_experiment"):
        signal.signal(signal.SIGTERM, lambda *_: end_tree())
        sweep = load_sweep(run_id)
        one = named(sweep, name)
        kept = folder_of(run_id) / one.name
        checkout = checkout_of(f"{run_id}~{one.name}")
        if not (kept / METRICS).exists():
            make_checkout(sweep, one, checkout)
            run(sweep, one, checkout, kept)
        if checkout.exists():  # a checkout goes when nothing of it waits for MLflow any more
            send_pending(checkout / OUTBOX)
            shutil.rmtree(checkout)
        answer({"name": one.name, "metrics": str(kept / METRICS)})


def named(sweep: Sweep, name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        UserError: the sweep has none.
    """
    for one in sweep.experiments:
        if one.name == name:
            return one
    known = ", ".join(one.name for one in sweep.experiments)
    raise UserError(f"--name '{name}': no experiment of the sweep; known: {known}")


def make_checkout(sweep: Sweep, one: Experiment, checkout: Path) -> None:
    """Clone the pinned commit with the experiment's params and its method alone, unless an earlier attempt did."""
    if checkout.exists():
        return
    with replacing(checkout) as temporary:
        clone(temporary)
        check_out(sweep.commit, temporary)
        configure(temporary)
        set_params(temporary, sweep.dataset, one.overrides, temporary / PARAMS)
        wire_methods(temporary, [one.method])


def run(sweep: Sweep, one: Experiment, checkout: Path, kept: Path) -> None:
    """Run the experiment's stages in `checkout` and keep what came of it in `kept`."""
    os.chdir(checkout)
    os.environ.update({RUN_ID: sweep.run_id, DVC_EXPERIMENT: one.name, SENDER: "run_experiment"})
    end_orphans(Path())
    own_children(Path())
    kept.mkdir(parents=True, exist_ok=True)
    with dvc_project() as repo:
        drop_stale_locks(repo)
        if DATA.exists():
            repo.pull([str(DATA)])
        with only_one_at(kept.parent / f".{common_work()}.lock"):
            reproduce(repo, list(COMMON), kept)
        reproduce(repo, ["report"], kept)
    with replacing(kept / METRICS) as temporary:
        shutil.copyfile(RESULTS / METRICS, temporary)
    (kept / FAILURE).unlink(missing_ok=True)


def reproduce(repo: "Repo", targets: list[str], kept: Path) -> None:
    """Run what `targets` need; where a stage fails this process ends with the same exit code."""
    from dvc.exceptions import ReproductionError

    try:
        repo.reproduce(targets, pull=True)
    except ReproductionError as error:
        code = exit_code_in(error)
        if code is None:
            raise
        write_json(kept / FAILURE, {"stage": str(error), "exit_code": code})
        log.error("%s", error)
        send_or_warn()
        sys.exit(code)


def common_work() -> str:
    """A name for what is done before any method comes in: the same for experiments that share it."""
    params = yaml.safe_load(Path(PARAMS).read_text(encoding="utf-8"))
    shared = {section: values for section, values in params.items() if section not in OF_A_METHOD}
    return sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def only_one_at(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process; who comes second waits."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    app()
