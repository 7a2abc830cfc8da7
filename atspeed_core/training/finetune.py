"""Fine-tuning of the target with DeepSpeed; every process of a torchrun launch runs `main`.

    python -m torch.distributed.run --nproc-per-node N -m atspeed_core.training.finetune --params params.yaml ...

An epoch's data, order and dropout depend on the seed and the epoch's number alone, and checkpoints are written between
epochs, so that a run that was killed and started again ends with the same weights as one that was not.
"""

import argparse
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from atspeed_core.data.sequences import Example, load_examples, load_train
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import beam_search
from atspeed_core.files import read_json, write_json
from atspeed_core.identifiers.catalog import Catalog, load_code_vectors
from atspeed_core.models.building import add_dropout, build_model, load_base, save_model, start_from_codebooks
from atspeed_core.models.inherited import build_from
from atspeed_core.models.lora import merged, with_lora
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.models.tokenizer import build_tokenizer, code_token_ids
from atspeed_core.progress import track
from atspeed_core.settings import Architecture, FinetuneTarget, load_params
from atspeed_core.training.curves import CURVES_FILE, Curves
from atspeed_core.training.recommendation_loss import labelled_tokens, recommendation_loss
from atspeed_core.training.windows import IGNORED, epoch_windows, token_batch

logger = logging.getLogger(__name__)
COMPILED_OP = "deepspeed_shm_comm"  # all-reduce on a CPU that wants a C++ compiler at run time; gloo serves without
SELECTION_K = 10  # validation recall is measured at this list length


@dataclass(frozen=True)
class FinetuneData:
    """What the target is trained and selected on.

    Attributes:
        sequences: training items of each user, as places in the catalog.
        valid: validation examples.
        encoder: of the prompts.
    """

    sequences: list[NDArray[np.int64]]
    valid: list[Example]
    encoder: PromptEncoder


@dataclass
class Progress:
    """Where a training run stands; written beside each checkpoint.

    Attributes:
        epoch: epochs done.
        best_epoch: the epoch (counted from 1) with the best selection value, 0 before any.
        best_value: recall, or the negative loss.
        curves: loss and recall by epoch.
    """

    epoch: int
    best_epoch: int
    best_value: float
    curves: Curves

    @classmethod
    def load(cls, path: Path) -> "Progress":
        """Read progress.json; a fresh start where there is none."""
        if not path.exists():
            return cls(0, 0, -math.inf, Curves())
        raw = read_json(path)
        return cls(raw["epoch"], raw["best_epoch"], raw["best_value"], Curves([tuple(r) for r in raw["curves"]]))

    def save(self, path: Path) -> None:
        """Write progress.json."""
        write_json(path, {**vars(self), "curves": self.curves.rows})


def build(
    settings: FinetuneTarget, catalog: Catalog, codebooks: Path, start: Path | None = None
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The model to train and its tokenizer, LoRA added if asked for.

    Args:
        settings: the section `finetune_target`.
        catalog: its codes become tokens.
        codebooks: codebooks.safetensors, read for `codebook_start`.
        start: folder of an earlier target that fits; its weights are taken, in place of those of the base model. A
            tokenizer with a base model keeps the codes that no item has any more.
    """
    if settings.architecture is not None:
        tokenizer: PreTrainedTokenizerBase = build_tokenizer(catalog.code_tokens)
        if start is None:
            model = _from_scratch(settings, settings.architecture, tokenizer, catalog, codebooks)
        else:
            model = build_from(start, settings.architecture, tokenizer, seed=settings.seed)
        add_dropout(model, settings.architecture.dropout)
        return model, tokenizer
    assert settings.base_model is not None
    model, tokenizer = load_base(str(start or settings.base_model), catalog.code_tokens)
    if settings.lora is None:
        return model, tokenizer
    return with_lora(model, tokenizer, catalog.code_tokens, settings.lora, seed=settings.seed), tokenizer


def _from_scratch(
    settings: FinetuneTarget,
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerBase,
    catalog: Catalog,
    codebooks: Path,
) -> PreTrainedModel:
    model = build_model(architecture, tokenizer, seed=settings.seed)
    if settings.codebook_start:
        vectors = load_code_vectors(codebooks, catalog.code_tokens)
        if vectors is None:
            logger.warning("codebook_start is ignored: identifiers that are given in a file have no codebooks")
            return model
        start_from_codebooks(model, code_token_ids(tokenizer, catalog.code_tokens), vectors, seed=settings.seed)
    return model


def train(
    settings: FinetuneTarget, data: FinetuneData, model: PreTrainedModel | PeftModel, checkpoints: Path
) -> Progress:
    """Train until `max_epochs` or `patience`; the best epoch's weights end in `model`."""
    engine = _engine(settings, model, _steps_an_epoch(settings, data) * settings.max_epochs)
    progress = Progress.load(checkpoints / "progress.json")
    if progress.epoch:
        _load(engine, checkpoints, progress.epoch)
        logger.info("going on after epoch %d", progress.epoch)
    while progress.epoch < settings.max_epochs and progress.epoch - progress.best_epoch < settings.patience:
        progress.epoch += 1
        values = {"train_loss": _train_epoch(engine, settings, data, progress.epoch)}
        values |= _validate(engine.module, settings, data)
        progress.curves.add(progress.epoch, values)
        _keep_best(progress, values[f"valid_{settings.selection}"], settings)
        if dist.get_rank() == 0:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            logger.info("epoch %d: %s%s", progress.epoch, shown, " (best)" * (progress.best_epoch == progress.epoch))
        _save(engine, checkpoints, progress)
    _load(engine, checkpoints, progress.best_epoch)
    return progress


def _engine(settings: FinetuneTarget, model: PreTrainedModel | PeftModel, num_steps: int) -> Any:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate, betas=(0.9, 0.98))

    def schedule(step: int) -> float:
        warmup = max(1, round(settings.warmup * num_steps))
        return min(1.0, (step + 1) / warmup) * (0.05 + 0.475 * (1 + math.cos(math.pi * min(1.0, step / num_steps))))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, lr_scheduler=scheduler, config=deepspeed_config(settings)
    )
    return engine


def deepspeed_config(settings: FinetuneTarget) -> dict[str, Any]:
    """DeepSpeed's configuration for these settings."""
    return {
        "train_micro_batch_size_per_gpu": math.ceil(_share(settings) / _parts(settings)),
        "gradient_accumulation_steps": _parts(settings),
        "gradient_clipping": 1.0,
        "bf16": {"enabled": settings.deepspeed.precision == "bfloat16"},
        "zero_optimization": {
            "stage": settings.deepspeed.zero_stage,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def _share(settings: FinetuneTarget) -> int:
    """Windows of a batch that this process computes."""
    return settings.batch_size // dist.get_world_size()


def _parts(settings: FinetuneTarget) -> int:
    """In how many parts it computes them."""
    return math.ceil(_share(settings) / (settings.deepspeed.micro_batch_size or _share(settings)))


def _train_epoch(engine: Any, settings: FinetuneTarget, data: FinetuneData, epoch: int) -> float:
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(int(np.random.SeedSequence([settings.seed, epoch, rank]).generate_state(1)[0]))
    engine.train()
    windows = _windows(settings, data, epoch)
    starts = range(0, len(windows) - len(windows) % world, settings.batch_size)
    losses = []
    for start in track(starts, f"epoch {epoch}", total=len(starts)) if rank == 0 else starts:
        mine = windows[start : start + settings.batch_size][rank::world]
        losses.append(_update(engine, mine, data.encoder, _parts(settings)))
    return _mean_over_ranks(torch.stack(losses).sum(), len(losses))


def _update(engine: Any, windows: list[NDArray[np.int64]], encoder: PromptEncoder, num_parts: int) -> torch.Tensor:
    """One update, its windows computed in parts that weigh as many tokens as they have; the loss of all windows."""
    parts = [windows[number::num_parts] for number in range(num_parts)]
    batches = [token_batch(part or windows[:1], encoder) for part in parts]  # a last batch may have fewer than parts
    tokens = [labelled_tokens(batch) if part else 0 for part, batch in zip(parts, batches, strict=True)]
    losses = []
    for batch, count in zip(batches, tokens, strict=True):
        loss = recommendation_loss(engine, batch) * (count / sum(tokens))
        engine.backward(loss * num_parts)  # DeepSpeed takes the mean over parts
        engine.step()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _windows(settings: FinetuneTarget, data: FinetuneData, epoch: int) -> list[NDArray[np.int64]]:
    return epoch_windows(
        data.sequences,
        window_items=data.encoder.max_history + 1,
        batch_size=settings.batch_size,
        seed=[settings.seed, epoch],
    )


def _steps_an_epoch(settings: FinetuneTarget, data: FinetuneData) -> int:
    return math.ceil(len(_windows(settings, data, 1)) / settings.batch_size)


@torch.no_grad()
def _validate(model: PreTrainedModel, settings: FinetuneTarget, data: FinetuneData) -> dict[str, float]:
    """Validation recall, or loss, over all processes; each takes every world-th example."""
    model.eval()
    device = next(model.parameters()).device
    code_model = CodeModel(model, data.encoder.code_ids.to(device))
    trie = DeviceTrie.build(data.encoder.catalog.trie, device)
    total, count = 0.0, 0
    for examples in _my_batches(data.valid, settings.batch_size):
        if settings.selection == "recall":
            total += sum(_recalls(code_model, trie, data.encoder, examples))
            count += len(examples)
        else:
            loss = _example_loss(model, data.encoder, examples)
            total, count = total + float(loss) * len(examples), count + len(examples)
    return {f"valid_{settings.selection}": _mean_over_ranks(torch.tensor(total), count)}


def validation_sample(examples: list[Example], num_users: int | None, *, seed: int) -> list[Example]:
    """The examples of `num_users` users, sampled by `seed`, in their order; all of them where there are no more."""
    if num_users is None or num_users >= len(examples):
        return examples
    chosen = np.random.default_rng(seed).choice(len(examples), num_users, replace=False)
    return [examples[number] for number in np.sort(chosen)]


def _my_batches(examples: list[Example], size: int) -> list[list[Example]]:
    """This process's examples in batches; all processes get equally many (ZeRO-3 needs that), some one twice."""
    rank, world = dist.get_rank(), dist.get_world_size()
    share = math.ceil(len(examples) / world)
    mine = [examples[(rank + i * world) % len(examples)] for i in range(share)]
    return [mine[start : start + size] for start in range(0, share, size)]


def _recalls(model: CodeModel, trie: DeviceTrie, encoder: PromptEncoder, examples: list[Example]) -> list[float]:
    prompts, mask = (t.to(trie.device) for t in encoder.encode([e.history for e in examples]))
    k = min(SELECTION_K, encoder.catalog.trie.num_leaves)
    leaves = beam_search(ScoredTree(model, trie, prompts, mask), k).leaves
    found = [encoder.catalog.items_of_leaves(row) for row in leaves.tolist()]
    return [len(set(f) & set(e.targets)) / len(set(e.targets)) for f, e in zip(found, examples, strict=True)]


def _example_loss(model: PreTrainedModel, encoder: PromptEncoder, examples: list[Example]) -> torch.Tensor:
    """L_rec of the first held-out item that the catalog knows, after the example's history."""
    positions = [encoder.known([*e.history, *encoder.catalog.known_items(e.targets)[:1]]) for e in examples]
    batch = token_batch([np.array(p) for p in positions], encoder)
    levels = encoder.catalog.num_levels
    batch.labels[:, :-levels] = IGNORED
    return recommendation_loss(model, batch)


def _mean_over_ranks(total: torch.Tensor, count: int) -> float:
    both = torch.stack([total.detach().float().cpu(), torch.tensor(float(count))])
    dist.all_reduce(both)
    return float(both[0] / both[1])


def _keep_best(progress: Progress, value: float, settings: FinetuneTarget) -> None:
    value = value if settings.selection == "recall" else -value
    if value > progress.best_value:
        progress.best_epoch, progress.best_value = progress.epoch, value


def _save(engine: Any, checkpoints: Path, progress: Progress) -> None:
    """Checkpoint, then progress.json, then drop the checkpoints that are neither last nor best."""
    engine.save_checkpoint(str(checkpoints), tag=f"epoch-{progress.epoch}")
    dist.barrier()
    if dist.get_rank() == 0:
        progress.save(checkpoints / "progress.json")
        kept = {f"epoch-{progress.epoch}", f"epoch-{progress.best_epoch}"}
        for folder in checkpoints.glob("epoch-*"):
            if folder.name not in kept:
                shutil.rmtree(folder)
    dist.barrier()


def _load(engine: Any, checkpoints: Path, epoch: int) -> None:
    loaded, _ = engine.load_checkpoint(str(checkpoints), tag=f"epoch-{epoch}")
    assert loaded, f"checkpoint epoch-{epoch} is missing in {checkpoints}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as one process of a torchrun launch and, as the first of them, write the model folder."""
    args = _parser().parse_args(arguments)
    deepspeed.ops.__compatible_ops__[COMPILED_OP] = False
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    logging.basicConfig(level=logging.INFO if dist.get_rank() == 0 else logging.WARNING, format=args.log_format)
    params = load_params(args.params)
    settings = params.finetune_target.warmed() if args.warm_from else params.finetune_target
    catalog = Catalog.load(args.identifiers)
    model, tokenizer = build(settings, catalog, args.identifiers.with_name("codebooks.safetensors"), args.warm_from)
    encoder = PromptEncoder.build(
        tokenizer, catalog, instruction=settings.instruction, max_history=params.prepare_data.max_history
    )
    sequences = [catalog.positions_of(items) for items in load_train(args.processed).values()]
    valid = validation_sample(load_examples(args.processed, "valid"), settings.validation_users, seed=settings.seed)
    data = FinetuneData(sequences, valid, encoder)
    progress = train(settings, data, model, args.checkpoints)
    with deepspeed.zero.GatheredParameters(list(model.parameters()), enabled=settings.deepspeed.zero_stage == 3):
        if dist.get_rank() == 0:
            files = {CURVES_FILE: progress.curves.csv()}
            save_model(args.output, merged(model), tokenizer, instruction=settings.instruction, extra_files=files)
    dist.barrier()
    dist.destroy_process_group()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, required=True, help="params.yaml")
    parser.add_argument("--processed", type=Path, required=True, help="folder of prepare_data")
    parser.add_argument("--identifiers", type=Path, required=True, help="identifiers.json")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder for checkpoints of this very training")
    parser.add_argument("--warm-from", type=Path, help="folder of an earlier target that fits")
    parser.add_argument("--output", type=Path, required=True, help="model folder to write")
    parser.add_argument("--log-format", default="%(message)s", help="format of log lines")
    return parser


if __name__ == "__main__":
    main()
