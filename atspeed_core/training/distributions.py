"""The codes over which draft and target are compared, and the distributions of both over them after a prefix."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.training.losses import normalised


@dataclass(frozen=True)
class ValidCodes:
    """The codes that lead on to an item, a prefix's children: "constrained alignment" (AtSpeed, section 3.2).

    Attributes:
        trie: of all items.
    """

    trie: DeviceTrie

    def log_probs(self, model: CodeModel, prompts: Tensor, mask: Tensor, nodes: Tensor) -> Tensor:
        """[B, T, M] log-probabilities after each of `nodes` [B, T], normalised; -inf where there is no such code.

        `prompts` [B, S] are left-padded, `mask` [B, S]; a column is a place among the children.
        """
        tree = ScoredTree(model, self.trie, prompts, mask)
        tree.score(nodes)
        return self.normalised(tree.next_log_probs(nodes)[1], nodes)

    def normalised(self, log_probs: Tensor, nodes: Tensor) -> Tensor:
        """`log_probs` [B, T, M] of the children of `nodes` [B, T], normalised over them."""
        return normalised(log_probs, self.trie.has_children(nodes))

    def columns(self, nodes: Tensor) -> Tensor:
        """[...] column of the code on the edge into each of `nodes` [...]; for the root and NO_NODE any column."""
        first = self.trie.first_child[self.trie.parents(nodes).clamp(min=0)].long()
        return (nodes - first).clamp(0, self.trie.max_children - 1)


@dataclass(frozen=True)
class WholeVocabulary:
    """All tokens that draft and target both know: alignment without the constraint, the ablation "w/o CA".

    Attributes:
        trie: of all items.
        code_ids: [codes] int64 token id of each code.
        size: number of tokens.
    """

    trie: DeviceTrie
    code_ids: Tensor
    size: int

    def log_probs(self, model: CodeModel, prompts: Tensor, mask: Tensor, nodes: Tensor) -> Tensor:
        """As `ValidCodes.log_probs`; a column is a token, and the rows of NO_NODE are -inf."""
        tokens = self.code_ids[self.trie.edge_code.long()].to(torch.int32)
        everything = replace(model, code_ids=torch.arange(self.size, device=nodes.device))
        tree = ScoredTree(everything, replace(self.trie, edge_code=tokens), prompts, mask)
        tree.score(nodes)
        rows = torch.arange(len(nodes), device=nodes.device)[:, None]
        log_probs = tree.log_probs[rows, tree.find(nodes)[0]]
        return normalised(log_probs, (nodes >= 0).unsqueeze(-1).expand_as(log_probs))

    def columns(self, nodes: Tensor) -> Tensor:
        """See `ValidCodes.columns`."""
        return self.code_ids[self.trie.codes(nodes)]


Support = ValidCodes | WholeVocabulary


def rows_of(log_probs: Tensor, known: Tensor, nodes: Tensor) -> Tensor:
    """[B, n, M] rows of `log_probs` [B, N, M], those of `known` [B, N], for `nodes` [B, n]; -inf for NO_NODE."""
    rows = torch.arange(len(nodes), device=nodes.device)[:, None]
    return log_probs[rows, _slots(known, nodes)].masked_fill((nodes < 0).unsqueeze(-1), -torch.inf)


def step_log_probs(log_probs: Tensor, known: Tensor, path: Tensor, support: Support) -> Tensor:
    """[B, n] log-probability of each of `path` [B, n] given its parent, which is in `known` [B, N]; 0 for NO_NODE."""
    rows = torch.arange(len(path), device=path.device)[:, None]
    steps = log_probs[rows, _slots(known, support.trie.parents(path)), support.columns(path)]
    return torch.where(path >= 0, steps, 0.0)


def _slots(known: Tensor, nodes: Tensor) -> Tensor:
    return (nodes.unsqueeze(-1) == known.unsqueeze(1)).int().argmax(-1)
