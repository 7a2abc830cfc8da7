"""The reference: `transformers` generate with a Python trie callback, the slow way whose lists ours must equal."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from atspeed_core.identifiers.trie import IntArray

Prefix = tuple[int, ...]
Successors = dict[Prefix, list[int]]


@dataclass(frozen=True)
class Generated:
    """Identifiers as generate returned them.

    Attributes:
        tokens: [B, K, levels] int64 token ids, best first.
        scores: [B, K] float32 summed log-probabilities.
    """

    tokens: Tensor
    scores: Tensor


def successors(item_tokens: IntArray) -> Successors:
    """Prefix -> the tokens that may follow it, from the identifiers' token ids [items, levels]."""
    following: dict[Prefix, set[int]] = {}
    for identifier in item_tokens.tolist():
        for depth, token in enumerate(identifier):
            following.setdefault(tuple(identifier[:depth]), set()).add(token)
    return {prefix: sorted(tokens) for prefix, tokens in following.items()}


def prefix_counts(item_tokens: IntArray) -> Counter[Prefix]:
    """Number of items below every prefix of the identifiers' token ids [items, levels]."""
    return Counter(tuple(row[:depth]) for row in item_tokens.tolist() for depth in range(1, len(row) + 1))


def exhausted(counts: Counter[Prefix], seen_tokens: IntArray) -> set[Prefix]:
    """Prefixes below which nothing is left without the distinct items `seen_tokens` [items, levels]."""
    return {prefix for prefix, count in prefix_counts(seen_tokens).items() if count == counts[prefix]}


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompts: Tensor,
    mask: Tensor,
    allowed: Successors,
    excluded: Sequence[set[Prefix]],
    *,
    k: int,
    num_levels: int,
    pad_id: int,
) -> Generated:
    """Beam search of width `k` by transformers for left-padded `prompts` [B, S] with `mask` [B, S].

    `allowed` is the trie; `excluded` holds, for each request, the prefixes that it must not reach.
    """
    config = GenerationConfig(
        num_beams=k,
        num_return_sequences=k,
        do_sample=False,
        max_new_tokens=num_levels,
        length_penalty=0.0 if k > 1 else None,
        eos_token_id=None,
        pad_token_id=pad_id,
        return_dict_in_generate=True,
        output_scores=k > 1,  # transformers returns sequence scores only along with these
        output_logits=k == 1,
    )
    generate: Any = model.generate  # its type depends on the configuration
    output = generate(
        inputs=prompts,
        attention_mask=mask,
        generation_config=config,
        prefix_allowed_tokens_fn=_callback(allowed, excluded, prompts.shape[1]),
    )
    tokens = output.sequences[:, prompts.shape[1] :].view(len(prompts), k, num_levels)
    scores = output.sequences_scores.view(len(prompts), k) if k > 1 else _greedy_scores(tokens, output.logits)
    return Generated(tokens, scores)


def _callback(
    allowed: Successors, excluded: Sequence[set[Prefix]], prompt_length: int
) -> Callable[[int, Tensor], list[int]]:
    def follow(request: int, sequence: Tensor) -> list[int]:
        prefix = tuple(sequence[prompt_length:].tolist())
        return [token for token in allowed[prefix] if (*prefix, token) not in excluded[request]]

    return follow


def _greedy_scores(tokens: Tensor, logits: tuple[Tensor, ...]) -> Tensor:
    log_probs = torch.stack([torch.log_softmax(step.float(), dim=-1) for step in logits], dim=1)  # [B, L, V]
    return log_probs.gather(2, tokens.transpose(1, 2)).sum(1)
