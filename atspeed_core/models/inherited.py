"""A model with the weights of an earlier one that has other tokens."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from atspeed_core.models.building import build_model, load_model
from atspeed_core.settings import Architecture

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"  # [tokens, hidden size] each


def build_from(
    folder: Path, architecture: Architecture, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> LlamaForCausalLM:
    """A model of `architecture` for `tokenizer` with the weights of the model in `folder`.

    Rows of embeddings and head belong to tokens, not to places: they are copied by the token's name. The row of a
    token that the earlier model lacks starts at the mean of the rows of its level ("<d_7>": of all "<d_...>"), or of
    all rows where it is the first of its level: it scores as the average code does until it is trained. (Its
    codebook vector would be of no use: the earlier rows have long left the codebooks.)

    Args:
        folder: of an earlier model with the same shape.
        architecture: shape of the model.
        tokenizer: of the model to build.
        seed: of rows that belong to no token.
    """
    model = build_model(architecture, tokenizer, seed=seed)
    earlier: PreTrainedModel = load_model(folder)
    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True).get_vocab()
    take_over = _by_name(tokens, tokenizer.get_vocab())
    fresh, weights = model.state_dict(), earlier.state_dict()
    weights |= {name: take_over(weights[name], fresh[name]) for name in (EMBEDDINGS, HEAD)}
    model.load_state_dict(weights)
    return model


def _by_name(before: dict[str, int], now: dict[str, int]) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of earlier and fresh rows that returns the rows for the tokens of `now`."""
    shared = sorted(before.keys() & now.keys())
    added = sorted(now.keys() - before.keys())
    places: dict[str, list[int]] = defaultdict(list)  # by level
    for token, place in before.items():
        places[_level(token)].append(place)

    def take_over(earlier: Tensor, fresh: Tensor) -> Tensor:
        rows = fresh.clone()
        rows[[now[token] for token in shared]] = earlier[[before[token] for token in shared]]
        for token in added:
            rows[now[token]] = earlier[places.get(_level(token)) or list(before.values())].mean(0)
        return rows

    return take_over


def _level(token: str) -> str:
    return token.rpartition("_")[0]
