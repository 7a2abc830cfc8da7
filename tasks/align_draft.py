"""Stage align_draft: train the draft with one alignment method."""

import logging
from pathlib import Path
from typing import Annotated

import torch
import typer

from atspeed_core import Recommender
from atspeed_core.alignment import align
from atspeed_core.data.sequences import load_train
from atspeed_core.drafters import DRAFTERS, DraftInputs
from atspeed_core.files import digest
from atspeed_core.methods import METHODS
from atspeed_core.models.champion import Start
from atspeed_core.settings import Params
from atspeed_core.training.alignment_batch import AlignmentData
from atspeed_core.training.curves import CURVES_FILE, Curves
from atspeed_core.training.topk_cache import INDEX, TopkCache
from tasks.paths import CHAMPION, CHECKPOINTS, DRAFTS, IDENTIFIERS, PROCESSED, TARGET, TOPK_CACHE
from tasks.stage import ParamsPath, Run, stage

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

CURVE_EVERY = 10  # updates between two points of a saved curve


@app.command()
def main(
    method: Annotated[str, typer.Option(help=f"Alignment method: {', '.join(METHODS.names())}.")],
    params: ParamsPath = Path("params.yaml"),
) -> None:
    """Align a draft with the target and write models/drafts/METHOD/.

    Training starts from data/champion/drafts/METHOD where that fits, else from scratch. A stopped training resumes
    from its last state (checkpoints/align_draft/).
    """
    with stage("align_draft", params, method=method) as run:
        chosen, data = METHODS.get(method), _load(run.params)
        drafter = DRAFTERS.get(chosen.drafter)
        inputs = DraftInputs(TARGET, CHAMPION, data.encoder, data.trie.device)
        start = drafter.start(f"drafts/{method}", inputs, run.params.align_draft)
        log.info("starts from %s: %s", start.origin, start.reason)
        run.log_param("started_from", start.origin)
        run.log_param("start_reason", start.reason)
        settings = run.params.align_draft.warmed() if start.folder else run.params.align_draft
        checkpoint = CHECKPOINTS / "align_draft" / f"{_fingerprint(run.params, method, start)}.pt"
        torch.manual_seed(settings.seed)
        draft = drafter.build(start, inputs, settings)
        curves = align(draft, data, chosen, settings, checkpoint=checkpoint)
        drafter.save(DRAFTS / method, draft, inputs, {CURVES_FILE: curves.csv(every=CURVE_EVERY)})
        checkpoint.unlink(missing_ok=True)
        _record(run, curves, DRAFTS / method)


def _load(params: Params) -> AlignmentData:
    decoding = params.decoding().for_training()
    recommender = Recommender.load(TARGET, identifiers=IDENTIFIERS / "identifiers.json", decoding=decoding)
    catalog = recommender.catalog
    sequences = [catalog.positions_of(items) for items in load_train(PROCESSED).values()]
    return AlignmentData(sequences, TopkCache(TOPK_CACHE), recommender.encoder, recommender.trie, recommender.target)


def _record(run: Run, curves: Curves, folder: Path) -> None:
    for step, name, value in curves.rows:
        if step % CURVE_EVERY == 0:
            run.metric(name, value, step=step)
    run.artifact(folder / CURVES_FILE)
    last = {name: value for _, name, value in curves.rows}
    log.info("last update: %s", ", ".join(f"{name} {value:.3f}" for name, value in last.items()) or "none, no training")


def _fingerprint(params: Params, method: str, start: Start) -> str:
    files = [PROCESSED / "train.parquet", TARGET / "model.safetensors", TOPK_CACHE / INDEX]
    settings = params.align_draft.model_dump_json()
    return digest(files, method, settings, str(params.prepare_data.max_history), start.origin)


if __name__ == "__main__":
    app()
