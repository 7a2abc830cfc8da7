"""The reference: `transformers` generate kept to the item trie, the slow way whose lists ours must equal."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.decoding.scored_tree import position_ids
from atspeed_core.identifiers.trie import IntArray

Prefix = tuple[int, ...]
Successors = dict[Prefix, list[int]]
Keep = dict[str, Any]  # the argument of generate that keeps it to the trie


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
def generate(  # noqa: PLR0913 - what generate of transformers needs; decoding is to be rebuilt
    model: PreTrainedModel,
    prompts: Tensor,
    mask: Tensor,
    keep: Keep,
    *,
    k: int,
    num_levels: int,
    pad_id: int,
    prompt_once: bool = False,
) -> Generated:
    """Beam search of width `k` by transformers for left-padded `prompts` [B, S] with `mask` [B, S].

    With `prompt_once` generate starts behind keys and values of the prompts that the model computed once for all beams;
    on its own generate computes the prompt again for each beam.
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
    computed = {"past_key_values": prompt_cache(model, prompts, mask, k)} if prompt_once else {}
    output = generate(inputs=prompts, attention_mask=mask, generation_config=config, **keep, **computed)
    tokens = output.sequences[:, prompts.shape[1] :].view(len(prompts), k, num_levels)
    scores = output.sequences_scores.view(len(prompts), k) if k > 1 else _greedy_scores(tokens, output.logits)
    return Generated(tokens, scores)


def prompt_cache(model: PreTrainedModel, prompts: Tensor, mask: Tensor, k: int) -> DynamicCache | None:
    """Keys and values of `prompts` [B, S] but the last token, `k` rows per request; None for one-token prompts."""
    if prompts.shape[1] == 1:
        return None
    cache = DynamicCache(config=model.config)
    model.base_model(
        input_ids=prompts[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=position_ids(mask)[:, :-1],
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(k)
    return cache


def keep_by_callback(allowed: Successors, excluded: Sequence[set[Prefix]], prompt_length: int) -> Keep:
    """A Python callback, asked once a beam and step.

    Args:
        allowed: the trie.
        excluded: for each request, the prefixes that it must not reach.
        prompt_length: tokens before the identifier.
    """
    return {"prefix_allowed_tokens_fn": _callback(allowed, excluded, prompt_length)}


def keep_by_tensors(trie: DeviceTrie, code_ids: Tensor, batch: int, prompt_length: int) -> Keep:
    """A logits processor, asked once a step for all beams; arguments as for `TrieProcessor`."""
    return {"logits_processor": LogitsProcessorList([TrieProcessor(trie, code_ids, batch, prompt_length)])}


class TrieProcessor(LogitsProcessor):
    """Leaves to each beam the tokens of its trie node's children: gathers on the device, no Python a beam."""

    def __init__(self, trie: DeviceTrie, code_ids: Tensor, batch: int, prompt_length: int) -> None:
        """Serve one call of generate.

        Args:
            trie: of the requests, what they must not reach excluded.
            code_ids: [codes] int64 token id of each code.
            batch: requests.
            prompt_length: tokens before the identifier.
        """
        self._trie, self._code_ids = trie, code_ids
        self._batch, self._prompt_length = batch, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [B * K, vocabulary] after `input_ids` [B * K, S], -inf for what leads out of the trie."""
        chosen = input_ids[:, self._prompt_length :].unflatten(0, (self._batch, len(input_ids) // self._batch))
        nodes = follow(self._trie, self._code_ids, chosen)
        children = self._trie.children(nodes, chosen.shape[2]).flatten(0, 1)
        vocabulary, tokens = scores.shape[1], self._code_ids[self._trie.codes(children)]
        places = torch.where(children >= 0, tokens, vocabulary)  # one column more, cut off below
        allowed = torch.zeros(len(scores), vocabulary + 1, dtype=torch.bool, device=scores.device)
        allowed.scatter_(1, places, True)
        return scores.masked_fill(~allowed[:, :vocabulary], -torch.inf)


def follow(trie: DeviceTrie, code_ids: Tensor, tokens: Tensor) -> Tensor:
    """[B, K] nodes that the token ids `tokens` [B, K, n] lead to from the root; NO_NODE where they leave the trie."""
    nodes = torch.zeros(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    for depth, token in enumerate(tokens.unbind(-1)):
        children = trie.children(nodes, depth)
        taken = (code_ids[trie.codes(children)] == token.unsqueeze(-1)) & (children >= 0)
        nodes = torch.where(taken, children, NO_NODE).amax(-1)
    return nodes


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
