"""The prefixes of a set of sequences: the nodes to score, how many sequences pass each, and the K-th best path."""

from dataclasses import dataclass

import torch
from torch import Tensor

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie


@dataclass(frozen=True)
class PrefixTree:
    """The distinct proper prefixes of a batch of sequence lists.

    Attributes:
        nodes: [B, T] int64 trie nodes in ascending order, the root first; NO_NODE fills up.
        weights: [B, T] float32 share of (sequence, level) pairs that pass a node; they sum to 1.
    """

    nodes: Tensor
    weights: Tensor


def prefix_tree(leaves: Tensor, trie: DeviceTrie) -> PrefixTree:
    """The prefixes of `leaves` [B, K] (NO_NODE allowed)."""
    inner = trie.ancestors(leaves)[..., 1:].flatten(1)  # [B, K * (L - 1)]: depth L - 1, ..., 1
    root = torch.where(leaves >= 0, 0, NO_NODE)
    passed = torch.cat([root, inner], dim=1).sort(dim=1).values
    first = torch.ones_like(passed, dtype=torch.bool)
    first[:, 1:] = passed[:, 1:] != passed[:, :-1]
    first &= passed >= 0
    width = int(first.sum(1).max())
    order = first.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    nodes = torch.where(first.gather(1, order), passed.gather(1, order), NO_NODE)
    counts = (nodes.unsqueeze(-1) == passed.unsqueeze(1)).sum(-1) * (nodes >= 0)
    return PrefixTree(nodes, counts / counts.sum(1, keepdim=True))


def kth_path(leaves: Tensor, trie: DeviceTrie) -> Tensor:
    """[B, L] nodes of depth 1 .. L of the last sequence of each row of `leaves` [B, K] that exists."""
    last = (leaves >= 0).sum(1, keepdim=True) - 1
    return trie.ancestors(leaves.gather(1, last).squeeze(1)).flip(-1)
