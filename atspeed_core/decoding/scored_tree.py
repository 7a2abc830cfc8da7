"""A prompt and a growing tree of trie nodes behind it, scored by one language model.

Tree attention (AtSpeed, section 3.1; SpecInfer): nodes of all beams and depths stand in one sequence, each seeing the
prompt and its own ancestors only, at the position of its depth. Keys and values of scored nodes stay in the cache for
good, so a node is computed once, whichever round asks for it first.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie


@dataclass(frozen=True)
class CodeModel:
    """A causal language model and where the catalog's codes stand in its vocabulary.

    Attributes:
        model: a Hugging Face llama-like causal LM, in eval mode.
        code_ids: [codes] int64 token id of each code of the catalog.
    """

    model: PreTrainedModel
    code_ids: Tensor

    def hidden(self, **inputs: Any) -> Tensor:
        """[B, T, hidden] last hidden states."""
        states: Tensor = self.model.base_model(**inputs).last_hidden_state
        return states

    def code_log_probs(self, hidden: Tensor) -> Tensor:
        """[..., codes] float32 log-probabilities of the codes, log-softmax over the full vocabulary."""
        logits = self.model.get_output_embeddings()(hidden).float()
        return torch.log_softmax(logits, dim=-1)[..., self.code_ids]


def position_ids(mask: Tensor) -> Tensor:
    """[B, S] positions of left-padded prompts, as `transformers` generate counts them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def tree_mask(trie: DeviceTrie, queries: Tensor, slots: Tensor) -> Tensor:
    """[B, T, N] bool: which of the nodes in `slots` [B, N] each of `queries` [B, T] sees: itself and its ancestors."""
    chain = trie.ancestors(queries)  # [B, T, levels]
    present = (slots > 0).unsqueeze(1)
    return (chain.unsqueeze(-1) == slots[:, None, None, :]).any(2) & present


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, Q, N] attention mask to be added to the scores, from `visible` [B, Q, N] bool."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min).unsqueeze(1)


class ScoredTree:
    """Prompts of a batch with the trie nodes scored so far.

    Attributes:
        nodes: [B, N] scored trie nodes; slot 0 is the root, NO_NODE marks a slot that a request does not use.
        log_probs: [B, N, codes] float32 log-probabilities of the next code after each node.
        num_calls: forward passes so far.
    """

    def __init__(self, model: CodeModel, trie: DeviceTrie, prompts: Tensor, mask: Tensor) -> None:
        """Start with left-padded `prompts` [B, S] and their `mask` [B, S]; nothing is computed yet."""
        self.model, self.trie = model, trie
        self._prompts, self._mask = prompts, mask.bool()
        self._cache: DynamicCache | None = None
        self.nodes = torch.zeros(len(prompts), 1, dtype=torch.long, device=prompts.device)
        self.log_probs = torch.empty(len(prompts), 0, len(model.code_ids), device=prompts.device)
        self.num_calls = 0

    def score(self, wanted: Tensor) -> None:
        """Score those of `wanted` [B, W] (NO_NODE allowed) that are not scored yet, all in one forward pass.

        The prompt itself goes along in the first pass. Parents must be scored already or be wanted too.
        """
        new = self._compact(wanted)
        if self._cache is None:
            self._first_pass(new)
        elif new.shape[1]:
            self._later_pass(new)

    def find(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Slots [B, W] of `nodes` [B, W] and whether each is scored; NO_NODE counts as scored (slot 0)."""
        same = nodes.unsqueeze(-1) == self.nodes.unsqueeze(1)
        return same.int().argmax(-1), same.any(-1) | (nodes < 0)

    def next_log_probs(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Children [B, K, M] of scored `nodes` [B, K] and their log-probabilities [B, K, M], -inf for NO_NODE."""
        slots, _ = self.find(nodes)
        children = self.trie.children(nodes)
        codes = self.trie.token[children.clamp(min=1)]
        rows = torch.arange(len(nodes), device=nodes.device)[:, None, None]
        scores = self.log_probs[rows, slots.unsqueeze(-1), codes]
        return children, scores.masked_fill(children < 0, -torch.inf)

    def path_scores(self, nodes: Tensor) -> Tensor:
        """[B, K] sum of this model's log-probabilities along the paths to `nodes`; parents must be scored."""
        total = torch.zeros(nodes.shape, device=nodes.device)
        rows = torch.arange(len(nodes), device=nodes.device)[:, None]
        for node in self.trie.ancestors(nodes).unbind(-1):
            parent = torch.where(node > 0, self.trie.parent[node.clamp(min=0)], 0)
            slots, _ = self.find(parent)
            step = self.log_probs[rows, slots, self.trie.token[node.clamp(min=1)]]
            total += torch.where(node > 0, step, 0.0)
        return total

    def select(self, rows: Tensor) -> None:
        """Keep only the requests `rows` (indices into the batch)."""
        self._prompts, self._mask = self._prompts[rows], self._mask[rows]
        self.trie = self.trie.select(rows)
        self.nodes, self.log_probs = self.nodes[rows], self.log_probs[rows]
        if self._cache is not None:
            self._cache.batch_select_indices(rows)

    def _compact(self, wanted: Tensor) -> Tensor:
        _, scored = self.find(wanted)
        repeated = (wanted.unsqueeze(-1) == wanted.unsqueeze(1)).tril(-1).any(-1)
        missing = ~scored & ~repeated
        width = int(missing.sum(1).max()) if wanted.numel() else 0
        order = missing.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        return torch.where(missing.gather(1, order), wanted.gather(1, order), NO_NODE)

    def _first_pass(self, new: Tensor) -> None:
        batch, length = self._prompts.shape
        total = length + new.shape[1]
        visible = torch.zeros(batch, total, total, dtype=torch.bool, device=new.device)
        visible[:, :length, :length] = torch.ones(length, length, dtype=torch.bool, device=new.device).tril()
        visible[:, :, :length] &= self._mask.unsqueeze(1)
        visible[:, length:, :length] = self._mask.unsqueeze(1)
        visible[:, length:, length:] = tree_mask(self.trie, new, new)
        self._cache = DynamicCache()
        tokens = torch.cat([self._prompts, self._tokens(new)], dim=1)
        positions = torch.cat([position_ids(self._mask), self._positions(new)], dim=1)
        self._forward(tokens, positions, visible, new, keep_from=length - 1)

    def _later_pass(self, new: Tensor) -> None:
        slots = torch.cat([self.nodes[:, 1:], new], dim=1)
        prompt = self._mask.unsqueeze(1).expand(-1, new.shape[1], -1)
        visible = torch.cat([prompt, tree_mask(self.trie, new, slots)], dim=2)
        self._forward(self._tokens(new), self._positions(new), visible, new, keep_from=0)

    def _forward(self, tokens: Tensor, positions: Tensor, visible: Tensor, new: Tensor, *, keep_from: int) -> None:
        hidden = self.model.hidden(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=additive(visible, self.model.model.dtype),
            past_key_values=self._cache,
            use_cache=True,
        )
        log_probs = self.model.code_log_probs(hidden[:, keep_from:])
        self.log_probs = torch.cat([self.log_probs, log_probs], dim=1)
        self.nodes = torch.cat([self.nodes, new], dim=1)
        self.num_calls += 1

    def _tokens(self, nodes: Tensor) -> Tensor:
        return self.model.code_ids[self.trie.token[nodes.clamp(min=1)]]

    def _positions(self, nodes: Tensor) -> Tensor:
        return self._mask.sum(1, keepdim=True) + self.trie.depth[nodes.clamp(min=1)] - 1
