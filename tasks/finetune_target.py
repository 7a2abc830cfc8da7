"""Stage finetune_target: train the target with DeepSpeed under torchrun."""

import logging
import os
import shutil
import subprocess
from pathlib import Path

import typer

from atspeed_core.errors import UserError
from atspeed_core.files import digest
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.champion import Start, choose_start
from atspeed_core.settings import Params
from atspeed_core.training.curves import CURVES_FILE, read_curves
from tasks.launch import num_nodes, processes, torchrun
from tasks.paths import CHAMPION, CHECKPOINTS, IDENTIFIERS, PROCESSED, TARGET
from tasks.stage import ParamsPath, Run, stage
from tasks.threads import num_threads

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(params: ParamsPath = Path("params.yaml")) -> None:
    """Train the target from data/processed and data/identifiers; write models/target/.

    Training starts from data/champion/target where that fits, else from scratch. A stopped training resumes after its
    last finished epoch (checkpoints/finetune_target/).
    """
    with stage("finetune_target", params) as run:
        start = _start(run)
        checkpoints = CHECKPOINTS / "finetune_target" / _fingerprint(run.params, start)
        _launch(params, run.params, checkpoints, start)
        curves = read_curves(TARGET / CURVES_FILE)
        for step, name, value in curves.rows:
            run.metric(name, value, step=step)
        run.artifact(TARGET / CURVES_FILE)
        shutil.rmtree(checkpoints)


def _start(run: Run) -> Start:
    settings = run.params.finetune_target
    catalog = Catalog.load(IDENTIFIERS / "identifiers.json")
    start = choose_start(
        CHAMPION, "target", catalog, architecture=settings.architecture, base_model=settings.base_model
    )
    log.info("starts from %s: %s", start.origin, start.reason)
    run.log_param("started_from", start.origin)
    run.log_param("start_reason", start.reason)
    return start


def _fingerprint(params: Params, start: Start) -> str:
    """Names the checkpoints of exactly this training: other data, settings or start never resume from them."""
    files = [PROCESSED / "train.parquet", PROCESSED / "valid.parquet", IDENTIFIERS / "identifiers.json"]
    if params.finetune_target.codebook_start:
        files.append(IDENTIFIERS / "codebooks.safetensors")
    texts = [params.finetune_target.model_dump_json(), str(params.prepare_data.max_history), start.origin]
    return digest(files, *texts)


def _launch(path: Path, params: Params, checkpoints: Path, start: Start) -> None:
    number, batch = params.finetune_target.deepspeed.num_processes, params.finetune_target.batch_size
    if batch % (world := processes(number) * num_nodes()):
        raise UserError(f"finetune_target.batch_size ({batch}) must be a multiple of the job's {world} processes")
    command = [*torchrun(number), "-m", "atspeed_core.training.finetune"]
    command += ["--params", str(path), "--processed", str(PROCESSED)]
    command += ["--identifiers", str(IDENTIFIERS / "identifiers.json")]
    command += ["--checkpoints", str(checkpoints), "--output", str(TARGET)]
    command += ["--warm-from", str(start.folder)] if start.folder else []
    command += ["--log-format", "%(asctime)s finetune_target %(levelname)s: %(message)s"]
    threads = max(1, num_threads(params) // processes(number))  # torchrun's default is one
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"training ended with exit code {done.returncode}; its log is above")


if __name__ == "__main__":
    app()
