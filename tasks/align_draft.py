"""Stage align_draft: train the draft with one alignment method."""

import logging
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoTokenizer

from atspeed_core import Recommender
from atspeed_core.data.sequences import load_train
from atspeed_core.decoding.scored_tree import CodeModel
from atspeed_core.files import digest
from atspeed_core.models.building import build_model, load_instruction, save_model
from atspeed_core.settings import Method, Params
from atspeed_core.training.alignment import AlignmentData, align
from atspeed_core.training.curves import CURVES_FILE, Curves
from atspeed_core.training.topk_cache import INDEX, TopkCache
from tasks.paths import CHECKPOINTS, DRAFTS, IDENTIFIERS, PROCESSED, TARGET, TOPK_CACHE
from tasks.stage import ParamsPath, Run, stage

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

CURVE_EVERY = 10  # updates between two points of a saved curve


@app.command()
def main(
    method: Annotated[Method, typer.Option(help="Alignment method.")],
    params: ParamsPath = Path("params.yaml"),
) -> None:
    """Align a draft with the target and write models/drafts/METHOD/.

    A stopped training goes on from its last state (checkpoints/align_draft/).
    """
    with stage("align_draft", params, method=method) as run:
        settings = run.params.align_draft
        data = _load(run.params)
        tokenizer = AutoTokenizer.from_pretrained(TARGET, local_files_only=True)
        device = data.trie.token.device
        draft = build_model(settings.architecture, tokenizer, seed=settings.seed)
        torch.nn.Module.to(draft, device)
        checkpoint = CHECKPOINTS / "align_draft" / f"{_fingerprint(run.params, method)}.pt"
        torch.manual_seed(settings.seed)
        curves = align(CodeModel(draft, data.target.code_ids), data, method, settings, checkpoint=checkpoint)
        files = {CURVES_FILE: curves.csv(every=CURVE_EVERY)}
        save_model(DRAFTS / method, draft, tokenizer, instruction=load_instruction(TARGET), extra_files=files)
        checkpoint.unlink(missing_ok=True)
        _record(run, curves, DRAFTS / method)


def _load(params: Params) -> AlignmentData:
    recommender = Recommender.load(
        TARGET, identifiers=IDENTIFIERS / "identifiers.json", max_history=params.prepare_data.max_history
    )
    catalog = recommender.catalog
    sequences = [catalog.positions_of(items) for items in load_train(PROCESSED).values()]
    return AlignmentData(sequences, TopkCache(TOPK_CACHE), recommender.encoder, recommender.trie, recommender.target)


def _record(run: Run, curves: Curves, folder: Path) -> None:
    for step, name, value in curves.rows:
        if step % CURVE_EVERY == 0:
            run.metric(name, value, step=step)
    run.artifact(folder / CURVES_FILE)
    last = {name: value for _, name, value in curves.rows}
    log.info("last update: %s", ", ".join(f"{name} {value:.3f}" for name, value in last.items()))


def _fingerprint(params: Params, method: Method) -> str:
    files = [PROCESSED / "train.parquet", TARGET / "model.safetensors", TOPK_CACHE / INDEX]
    return digest(files, method, params.align_draft.model_dump_json(), str(params.prepare_data.max_history))


if __name__ == "__main__":
    app()
