"""Stage cache_topk: the target's top-K sequences for the training users."""

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from atspeed_core import Recommender
from atspeed_core.data.sequences import load_train
from atspeed_core.errors import UserError
from atspeed_core.files import digest, replacing
from atspeed_core.progress import track
from atspeed_core.settings import CacheTopk, Params
from atspeed_core.training.topk_cache import Context, TopkSearch, choose_contexts, write_index, write_shards
from tasks.paths import CHECKPOINTS, IDENTIFIERS, PROCESSED, TARGET, TOPK_CACHE
from tasks.stage import ParamsPath, Run, stage

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(params: ParamsPath = Path("params.yaml")) -> None:
    """Search the target's top-K for every training user and write data/topk_cache/.

    A stopped run keeps its finished shards (checkpoints/cache_topk/).
    """
    with stage("cache_topk", params) as run:
        settings = run.params.cache_topk
        decoding = run.params.decoding().for_training()
        recommender = Recommender.load(TARGET, identifiers=IDENTIFIERS / "identifiers.json", decoding=decoding)
        if settings.top_k > recommender.catalog.trie.num_leaves:
            raise UserError(f"cache_topk.top_k = {settings.top_k}: the catalog has fewer identifiers; lower it")
        sequences = _known_sequences(recommender)
        contexts = observed(sequences, settings)
        contexts += rolled_out(recommender, sequences, settings)
        items = recommender.catalog.items
        histories = [sequences[c.user][: c.position] + [items[place] for place in c.rollout] for c in contexts]
        _compute(run, recommender, contexts, histories)
        _compare(run, recommender, histories)


def _known_sequences(recommender: Recommender) -> list[list[str]]:
    return [recommender.catalog.known_items(items) for items in load_train(PROCESSED).values()]


def observed(sequences: Sequence[list[str]], settings: CacheTopk) -> list[Context]:
    """Contexts that have an item that came next.

    Raises:
        UserError: there is none, so no draft could be aligned.
    """
    contexts = choose_contexts([len(s) for s in sequences], settings.contexts_per_user, seed=settings.seed)
    if not contexts:
        raise UserError(
            f"{PROCESSED / 'train.parquet'}: no user has two known items, so there is nothing to align a draft on; "
            "let prepare_data (k_core, rating_threshold, sample) keep more"
        )
    return contexts


def rolled_out(recommender: Recommender, sequences: Sequence[list[str]], settings: CacheTopk) -> list[Context]:
    """Contexts after each item that the target sampled to follow the users' whole training histories.

    The search runs without speculation: for a single item it scores one node per level, where speculation scores all
    nodes of level 1. The noise depends on seed, request and node alone, so the samples are the same either way.
    """
    recommender = recommender.without_speculation()
    users = [user for user, items in enumerate(sequences) if items for _ in range(settings.rollouts_per_user)]
    histories, rollouts = [sequences[user] for user in users], [list[str]() for _ in users]
    starts = range(0, len(users), settings.batch_size)
    steps = [(step, start) for step in range(settings.rollout_items) for start in starts]
    for step, start in track(steps, "rolling out training histories"):
        batch = range(start, min(start + settings.batch_size, len(users)))
        so_far = [histories[row] + rollouts[row] for row in batch]
        seed = settings.seed + step * len(users) + start
        for row, items in zip(batch, recommender.recommend(so_far, 1, "exact_sampling", seed=seed).items, strict=True):
            rollouts[row] += items
    places = [recommender.catalog.positions_of(items).tolist() for items in rollouts]
    lengths = range(1, settings.rollout_items + 1)
    return [
        Context(user, len(history), tuple(rollout[:length]))
        for user, history, rollout in zip(users, histories, places, strict=True)
        for length in lengths
    ]


def _compute(run: Run, recommender: Recommender, contexts: list[Context], histories: Sequence[Sequence[str]]) -> None:
    settings = run.params.cache_topk
    partial = CHECKPOINTS / "cache_topk" / _fingerprint(run.params)
    started = time.monotonic()
    index = write_shards(
        partial,
        contexts,
        histories,
        TopkSearch(recommender.target, recommender.encoder, recommender.trie, settings.top_k, settings.batch_size),
        contexts_per_shard=settings.contexts_per_shard,
    )
    rate = index.num_contexts / (time.monotonic() - started)
    write_index(partial, index)
    with replacing(TOPK_CACHE) as temporary:
        shutil.move(partial, temporary)
    log.info(
        "%d contexts of %d users, %.0f contexts per second; %.1f KB per user, %.1f KB per context",
        index.num_contexts,
        index.num_users,
        rate,
        index.bytes_per_user / 1e3,
        index.num_bytes / index.num_contexts / 1e3,
    )
    run.metric("bytes_per_user", index.bytes_per_user)
    run.metric("contexts_per_second", rate)


def _compare(run: Run, recommender: Recommender, histories: Sequence[Sequence[str]]) -> None:
    """Users per second of our search and of transformers' generate on the same users, one after the other."""
    settings = run.params.cache_topk
    sample = histories[: settings.compare_users]
    if not sample:
        return
    started = time.monotonic()
    recommender.recommend(sample, settings.top_k, "none")
    ours = len(sample) / (time.monotonic() - started)
    started = time.monotonic()
    recommender.generate(sample, settings.top_k)
    theirs = len(sample) / (time.monotonic() - started)
    log.info("%d users, batch %d: %.0f users per second, generate %.0f", len(sample), len(sample), ours, theirs)
    run.metric("users_per_second", ours)
    run.metric("users_per_second_generate", theirs)


def _fingerprint(params: Params) -> str:
    files = [PROCESSED / "train.parquet", IDENTIFIERS / "identifiers.json", TARGET / "model.safetensors"]
    return digest(files, params.cache_topk.model_dump_json(), str(params.prepare_data.max_history))


if __name__ == "__main__":
    app()
