"""Stage align_draft: train the draft with one alignment method."""

import logging
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from atspeed_core import Recommender
from atspeed_core.alignment import align
from atspeed_core.data.sequences import load_train
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.files import digest
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.methods import METHODS, Method
from atspeed_core.models import one_shot
from atspeed_core.models.building import build_model, load_base_draft, load_instruction, save_model
from atspeed_core.models.champion import SCRATCH, Start, choose_start
from atspeed_core.models.inherited import build_from
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.models.retrieval import RetrievalDraft, save_retrieval
from atspeed_core.settings import AlignDraft, Params
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
    """Align a draft with the target and write models/drafts/METHOD/; that of dare is a seed, it trains nothing.

    Training starts from data/champion/drafts/METHOD where that fits, else from scratch. A stopped training resumes
    from its last state (checkpoints/align_draft/).
    """
    with stage("align_draft", params, method=method) as run:
        chosen, data = METHODS.get(method), _load(run.params)
        start = _start(run, data.encoder, chosen)
        log.info("starts from %s: %s", start.origin, start.reason)
        run.log_param("started_from", start.origin)
        run.log_param("start_reason", start.reason)
        settings = run.params.align_draft.warmed() if start.folder else run.params.align_draft
        checkpoint = CHECKPOINTS / "align_draft" / f"{_fingerprint(run.params, method, start)}.pt"
        torch.manual_seed(settings.seed)
        train = {"one_shot": _one_shot, "dare": _retrieval, "language_model": _language_model}[chosen.drafter]
        curves = train(chosen, data, settings, start, checkpoint)
        checkpoint.unlink(missing_ok=True)
        _record(run, curves, DRAFTS / method)


def _load(params: Params) -> AlignmentData:
    decoding = params.decoding().for_training()
    recommender = Recommender.load(TARGET, identifiers=IDENTIFIERS / "identifiers.json", decoding=decoding)
    catalog = recommender.catalog
    sequences = [catalog.positions_of(items) for items in load_train(PROCESSED).values()]
    return AlignmentData(sequences, TopkCache(TOPK_CACHE), recommender.encoder, recommender.trie, recommender.target)


def _start(run: Run, encoder: PromptEncoder, method: Method) -> Start:
    settings, part = run.params.align_draft, f"drafts/{method.name}"
    if method.drafter == "dare":
        return Start(None, SCRATCH, "nothing is trained")
    if method.drafter == "language_model":
        shape, base_model = settings.architecture, settings.base_model
        return choose_start(CHAMPION, part, encoder.catalog, architecture=shape, base_model=base_model)
    start = choose_start(CHAMPION, part, encoder.catalog, architecture=None)
    if start.folder is not None:
        differing = one_shot.shape_difference(start.folder, settings.one_shot, max_history=encoder.max_history)
        if differing:
            start = Start(None, SCRATCH, f"the champion's {part} has another shape: {differing}")
    return start


def _language_model(
    method: Method, data: AlignmentData, settings: AlignDraft, start: Start, checkpoint: Path
) -> Curves:
    tokenizer = AutoTokenizer.from_pretrained(TARGET, local_files_only=True)
    draft = _initial(settings, start, tokenizer)
    torch.nn.Module.to(draft, data.trie.device)
    curves = align(CodeModel(draft, data.target.code_ids), data, method, settings, checkpoint=checkpoint)
    files = {CURVES_FILE: curves.csv(every=CURVE_EVERY)}
    save_model(DRAFTS / method.name, draft, tokenizer, instruction=load_instruction(TARGET), extra_files=files)
    return curves


def _initial(settings: AlignDraft, start: Start, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The language model that the drafts start from, with the champion's weights where they fit."""
    if settings.architecture is None:
        assert settings.base_model is not None
        return load_base_draft(str(start.folder or settings.base_model), tokenizer)
    if start.folder is None:
        return build_model(settings.architecture, tokenizer, seed=settings.seed)
    return build_from(start.folder, settings.architecture, tokenizer, seed=settings.seed)


def _one_shot(method: Method, data: AlignmentData, settings: AlignDraft, start: Start, checkpoint: Path) -> Curves:
    catalog, shape = data.encoder.catalog, settings.one_shot
    options: dict[str, int] = {"max_history": data.encoder.max_history, "seed": settings.seed}
    if start.folder is None:
        draft = one_shot.OneShotDraft(shape, catalog, **options)
    else:
        earlier = Catalog.load(CHAMPION / "identifiers" / "identifiers.json")
        draft = one_shot.build_from(start.folder, earlier, shape, catalog, **options)
    draft.to(data.trie.device)
    curves = align(draft, data, method, settings, checkpoint=checkpoint)
    files = {CURVES_FILE: curves.csv(every=CURVE_EVERY)}
    one_shot.save_one_shot(DRAFTS / method.name, draft, catalog, extra_files=files)
    return curves


def _retrieval(method: Method, data: AlignmentData, settings: AlignDraft, start: Start, checkpoint: Path) -> Curves:
    save_retrieval(DRAFTS / method.name, RetrievalDraft(settings.seed), extra_files={CURVES_FILE: Curves().csv()})
    return Curves()


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
