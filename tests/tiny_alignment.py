"""A small catalog, a target's cache for it and drafts to align with the target."""

from pathlib import Path
from typing import Any

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.settings import AlignDraft
from atspeed_core.training.alignment_batch import AlignmentData
from atspeed_core.training.topk_cache import Context, TopkCache, TopkSearch, choose_contexts, write_index, write_shards
from tests import complete_params
from tests.tiny_models import make_catalog, make_model, make_recommender

CODES = [(a, b, c) for a in range(4) for b in range(3) for c in range(2)]
SEQUENCES = [[str((7 * u + i * i) % 24) for i in range(4 + u)] for u in range(9)]
SHAPE = complete_params.Architecture(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)


def make_alignment_data(folder: Path) -> AlignmentData:
    """Nine users with the target's four best items per context, rollouts among them; files lie in `folder`."""
    recommender = make_recommender(make_catalog(CODES), folder / "models")
    contexts = choose_contexts([len(s) for s in SEQUENCES], 3, seed=0)
    contexts += [Context(user, len(items), (user, user + 1)) for user, items in enumerate(SEQUENCES)]
    items = recommender.catalog.items
    histories = [SEQUENCES[c.user][: c.position] + [items[place] for place in c.rollout] for c in contexts]
    search = TopkSearch(recommender.target, recommender.encoder, recommender.trie, top_k=4, batch_size=8)
    (folder / "cache").mkdir()
    write_index(folder / "cache", write_shards(folder / "cache", contexts, histories, search, contexts_per_shard=16))
    sequences = [recommender.catalog.positions_of(s) for s in SEQUENCES]
    return AlignmentData(
        sequences, TopkCache(folder / "cache"), recommender.encoder, recommender.trie, recommender.target
    )


def make_settings(**changes: Any) -> AlignDraft:
    """Settings of a short training."""
    short = {"num_updates": 10, "batch_size": 4, "learning_rate": 1e-2}
    settings: AlignDraft = complete_params.AlignDraft(architecture=SHAPE, **(short | changes))
    return settings


def make_draft(data: AlignmentData, *, seed: int = 5) -> CodeModel:
    """A language model with random weights."""
    return CodeModel(make_model(build_tokenizer(data.encoder.catalog.code_tokens), seed=seed), data.encoder.code_ids)
