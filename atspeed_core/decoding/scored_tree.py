"""A prompt and a growing tree of trie nodes behind it, scored by one language model.

Tree attention (AtSpeed, section 3.1; SpecInfer): nodes of all beams and depths stand in one sequence, each seeing the
prompt and its own ancestors only, at the position of its depth. Keys and values of scored nodes stay in the cache for
good, so a node is computed once, whichever call asks for it first.
"""

from copy import copy

import torch
from torch import Tensor

from atspeed_core.decoding.code_model import CodeModel, Session
from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie


def position_ids(mask: Tensor) -> Tensor:
    """[B, S] positions of left-padded prompts, as `transformers` generate counts them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def tree_mask(trie: DeviceTrie, queries: Tensor, slots: Tensor) -> Tensor:
    """[B, T, N] bool: which of the nodes in `slots` [B, N] each of `queries` [B, T] sees: itself and its ancestors."""
    visible = torch.zeros(*queries.shape, slots.shape[1], dtype=torch.bool, device=queries.device)
    present = torch.where(slots > 0, slots, -2).unsqueeze(1)  # -2: no query's ancestor, NO_NODE is -1
    for node in trie.ancestors(queries).unbind(-1):
        visible |= node.unsqueeze(-1) == present
    return visible


def left_aligned(nodes: Tensor, wanted: Tensor) -> Tensor:
    """[B, W] those of `nodes` [B, W] that are `wanted` [B, W] bool, in their order; NO_NODE fills up."""
    order = wanted.int().argsort(dim=1, descending=True, stable=True)
    return torch.where(wanted.gather(1, order), nodes.gather(1, order), NO_NODE)


def trimmed(nodes: Tensor) -> Tensor:
    """Left-aligned `nodes` [B, W] as narrow as the fullest row allows; the host waits for the device."""
    return nodes[:, : int((nodes >= 0).sum(1).max()) if nodes.numel() else 0]


class ScoredTree:
    """Prompts of a batch with the trie nodes scored so far.

    Attributes:
        nodes: [B, N] scored trie nodes; slot 0 is the root, NO_NODE marks a slot that a request does not use.
        log_probs: [B, N, codes] float32 log-probabilities of the next code after each node.
        num_calls: forward passes so far.
        num_nodes: nodes that those passes held, padding included, summed over the batch.
    """

    def __init__(self, model: CodeModel, trie: DeviceTrie, prompts: Tensor, mask: Tensor) -> None:
        """Start with left-padded `prompts` [B, S] and their `mask` [B, S]; nothing is computed yet."""
        self.model, self.trie = model, trie
        shared = model.prefix_length
        self._lengths = mask.sum(1, keepdim=True)
        padding = mask.shape[1] - self._lengths
        self._prompts, self._positions = prompts[:, shared:], position_ids(mask)[:, shared:]
        # A row's shared prefix ends where its padding would: what stays of padding and prefix is hidden.
        self._mask = torch.arange(mask.shape[1] - shared, device=mask.device) >= padding
        self._session: Session | None = None
        self.nodes = torch.zeros(len(prompts), 1, dtype=torch.long, device=prompts.device)
        self.log_probs = torch.empty(len(prompts), 0, len(model.code_ids), device=prompts.device)
        self.num_calls = self.num_nodes = 0

    def score(self, wanted: Tensor) -> None:
        """Score those of `wanted` [B, W] (NO_NODE allowed) that are not scored yet, all in one forward pass.

        The prompt itself goes along in the first pass. Parents must be scored already or be wanted too.
        """
        repeated = (wanted.unsqueeze(-1) == wanted.unsqueeze(1)).tril(-1).any(-1)
        self.score_new(trimmed(left_aligned(wanted, ~self.find(wanted)[1] & ~repeated)))

    def score_new(self, new: Tensor) -> None:
        """As `score`, for nodes [B, W] (NO_NODE allowed) that are distinct and none of which is scored yet."""
        if self._session is None:
            self._first_pass(new)
        elif new.shape[1]:
            self._later_pass(new)

    def find(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Slots [B, W] of `nodes` [B, W] and whether each is scored; NO_NODE counts as scored (slot 0)."""
        found, slots = (nodes.unsqueeze(-1) == self.nodes.unsqueeze(1)).max(-1)
        return slots, found | (nodes < 0)

    def next_log_probs(self, nodes: Tensor, depth: int | None = None) -> tuple[Tensor, Tensor]:
        """Children [B, K, M] of scored `nodes` [B, K] and their log-probabilities [B, K, M], -inf for NO_NODE.

        With `depth` all nodes are of that depth (or NO_NODE), and M is the most children there.
        """
        return self.children_log_probs(nodes, self.find(nodes)[0], depth)

    def children_log_probs(self, nodes: Tensor, slots: Tensor, depth: int | None = None) -> tuple[Tensor, Tensor]:
        """As `next_log_probs`, for nodes whose `slots` [B, K] are known."""
        children = self.trie.children(nodes, depth)
        rows = torch.arange(len(nodes), device=nodes.device)[:, None, None]
        scores = self.log_probs[rows, slots.unsqueeze(-1), self.trie.codes(children)]
        return children, scores.masked_fill(children < 0, -torch.inf)

    def path_scores(self, nodes: Tensor) -> Tensor:
        """[B, K] sum of this model's log-probabilities along the paths to `nodes`; parents must be scored."""
        total = torch.zeros(nodes.shape, device=nodes.device)
        rows = torch.arange(len(nodes), device=nodes.device)[:, None]
        for node in self.trie.ancestors(nodes).unbind(-1):
            slots, _ = self.find(self.trie.parents(node))
            step = self.log_probs[rows, slots, self.trie.codes(node)]
            total += torch.where(node > 0, step, 0.0)
        return total

    def fork(self) -> "ScoredTree":
        """A tree that continues from here independently of this one; for models with a `decoder`."""
        assert self.model.decoder is not None
        tree = copy(self)
        tree._session = copy(self._session)
        return tree

    def select(self, rows: Tensor) -> None:
        """Keep only the requests `rows` (indices into the batch)."""
        self._mask, self._lengths = self._mask[rows], self._lengths[rows]
        self._prompts, self._positions = self._prompts[rows], self._positions[rows]
        self.trie = self.trie.select(rows)
        self.nodes, self.log_probs = self.nodes[rows], self.log_probs[rows]
        if self._session is not None:
            self._session.select(rows)

    def _first_pass(self, new: Tensor) -> None:
        batch, length = self._prompts.shape
        self._session = self.model.session(batch, length + 2 * new.shape[1])
        total = length + new.shape[1]
        visible = torch.zeros(batch, total, total, dtype=torch.bool, device=new.device)
        visible[:, :length, :length] = torch.ones(length, length, dtype=torch.bool, device=new.device).tril()
        visible[:, :, :length] &= self._mask.unsqueeze(1)
        visible[:, length:, :length] = self._mask.unsqueeze(1)
        visible[:, length:, length:] = tree_mask(self.trie, new, new)
        tokens = torch.cat([self._prompts, self._tokens(new)], dim=1)
        positions = torch.cat([self._positions, self._node_positions(new)], dim=1)
        self._forward(self._session, tokens, positions, visible, new, keep_from=length - 1)

    def _later_pass(self, new: Tensor) -> None:
        assert self._session is not None
        slots = torch.cat([self.nodes[:, 1:], new], dim=1)
        prompt = self._mask.unsqueeze(1).expand(-1, new.shape[1], -1)
        visible = torch.cat([prompt, tree_mask(self.trie, new, slots)], dim=2)
        self._forward(self._session, self._tokens(new), self._node_positions(new), visible, new, keep_from=0)

    def _forward(
        self, session: Session, tokens: Tensor, positions: Tensor, visible: Tensor, new: Tensor, *, keep_from: int
    ) -> None:
        if session.prefix_length:
            visible = torch.nn.functional.pad(visible, (session.prefix_length, 0), value=True)
        hidden = session.extend(tokens, positions, visible, keep_from=keep_from)
        self.log_probs = torch.cat([self.log_probs, self.model.code_log_probs(hidden)], dim=1)
        self.nodes = torch.cat([self.nodes, new], dim=1)
        self.num_calls += 1
        self.num_nodes += new.numel()

    def _tokens(self, nodes: Tensor) -> Tensor:
        return self.model.code_ids[self.trie.codes(nodes)]

    def _node_positions(self, nodes: Tensor) -> Tensor:
        return self._lengths + (self.trie.depth_of(nodes) - 1).clamp(min=0)
