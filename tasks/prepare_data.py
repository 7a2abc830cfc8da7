"""Stage prepare_data: a source of interactions -> split sequences, items and statistics."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from atspeed_core.data.prepare import prepare, write
from tasks.paths import PROCESSED
from tasks.stage import ParamsPath, stage

logger = logging.getLogger(__name__)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Sample = Annotated[int | None, typer.Option(min=1, help="Keep so many users, for a quick look; else as in params.")]


@app.command()
def main(params: ParamsPath = Path("params.yaml"), sample: Sample = None) -> None:
    """Read, check, filter and split the interactions named in params.yaml; write data/processed/."""
    with stage("prepare_data", params) as run:
        settings = run.params.prepare_data
        if sample is not None:
            settings = settings.model_copy(update={"sample": sample})
            logger.warning("DVC does not know of --sample; for the stages after this one set prepare_data.sample")
            run.log_param("sample", sample)
        prepared = prepare(settings)
        write(prepared, PROCESSED)
        stats = prepared.stats
        logger.info("%s: %s users, %s items, %s interactions", *(stats[k] for k in _SHOWN))
        for key in _SHOWN[1:]:
            run.log_param(f"num_{key}", stats[key])
        run.artifact(PROCESSED / "stats.json")


_SHOWN = ("dataset", "users", "items", "interactions")

if __name__ == "__main__":
    app()
