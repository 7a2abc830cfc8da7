"""Proposals: which trie nodes the target's first call should score along with the prompt."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from atspeed_core.decoding.beam_rules import BeamRule
from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.decoding.scored_tree import left_aligned, trimmed

NO_LIMIT = 1e6  # log-probability: as good as infinite, and finite


@dataclass(frozen=True)
class Quotas:
    """How many nodes a drafter proposes for lists of K items.

    Nodes of a level are taken best first, as many as `most` says, but none whose key lies more than `within` below the
    draft's own K-th best: where the draft is sure of itself, few. Levels that are not named get no node. Of what is
    left over `total` nodes, those nearest to their level's limit go.

    Attributes:
        most: nodes of level 1, 2, ...
        within: log-probability, for the same levels; inf: no such limit.
        ranked_levels: levels that the draft ranks. Deeper ones get the subtrees of the nodes above, best first.
        total: nodes of all ranked levels; None: no such limit.
    """

    most: tuple[int, ...]
    within: tuple[float, ...]
    ranked_levels: int
    total: int | None = None


class PrefixModel(Protocol):
    """A draft after some histories: the log-probabilities of the next codes after prefixes."""

    @property
    def trie(self) -> DeviceTrie:
        """The trie, narrowed to what the requests may be recommended."""
        ...

    def next_log_probs(self, nodes: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """Children [B, n, M] of `nodes` [B, n], all of `depth`, and their log-probabilities given the parent."""
        ...


@dataclass(frozen=True)
class Level:
    """Ranked nodes of one level.

    Attributes:
        nodes: [B, n] int64, best first; NO_NODE fills up.
        below: [B, n] float32 how far each key stands below the level's K-th best, negative above it; inf for NO_NODE.
        parents: [B, n] int64 place of each one's parent in the level before.
    """

    nodes: Tensor
    below: Tensor
    parents: Tensor


def rank(model: PrefixModel, quotas: Quotas, rule: BeamRule, k: int, batch: int) -> list[Level]:
    """The nodes that the draft ranks, level by level, each below a node of the level before.

    Args:
        model: the draft.
        quotas: how many.
        rule: the target's, so that the draft ranks as the target will.
        k: list length.
        batch: number of requests.
    """
    nodes = torch.zeros(batch, 1, dtype=torch.long, device=model.trie.device)
    keys = scores = torch.zeros(batch, 1, device=model.trie.device)
    levels: list[Level] = []
    for depth in range(min(len(quotas.most), quotas.ranked_levels, model.trie.num_levels - 1)):
        if not quotas.most[depth]:
            break
        children, step = model.next_log_probs(nodes, depth)
        extended = rule.extend(keys, scores, children, step)
        keys, chosen = extended.keys.flatten(1).topk(min(quotas.most[depth], children[0].numel()), dim=1)
        below = _kth_best(keys, k) - keys
        within = (below <= quotas.within[depth]) & (keys > -torch.inf)  # sorted, so that they stand on the left
        nodes = narrowed(children.flatten(1).gather(1, chosen).masked_fill(~within, NO_NODE))
        width = nodes.shape[1]
        if not width:
            break
        below = below.masked_fill(~within, torch.inf)[:, :width]
        keys = keys.masked_fill(~within, -torch.inf)[:, :width]
        scores = extended.scores.flatten(1).gather(1, chosen)[:, :width]
        levels.append(Level(nodes, below, (chosen // children.shape[-1])[:, :width]))
    return levels


def _kth_best(keys: Tensor, k: int) -> Tensor:
    """[B, 1] the K-th best of sorted `keys` [B, n], the worst where there are fewer."""
    last = (keys > -torch.inf).sum(1, keepdim=True).clamp(min=1, max=k) - 1
    return keys.gather(1, last)


def capped(levels: list[Level], quotas: Quotas) -> Tensor:
    """[B, W] nodes of `levels`, of each request at most `quotas.total`, parents first; NO_NODE fills up."""
    nodes = torch.cat([level.nodes for level in levels], dim=1)
    if quotas.total is None or nodes.shape[1] <= quotas.total:
        return nodes
    beyond: list[Tensor] = []  # a node's limit; no child is nearer to it than its parent
    for depth, level in enumerate(levels):
        own = level.below - min(quotas.within[depth], NO_LIMIT)
        beyond.append(torch.maximum(own, beyond[-1].gather(1, level.parents)) if beyond else own)
    together = torch.cat(beyond, dim=1)
    order = together.argsort(dim=1, stable=True)[:, : quotas.total]
    order = order.sort(dim=1).values
    chosen = nodes.gather(1, order)
    return narrowed(left_aligned(chosen, chosen >= 0))


def propose(model: PrefixModel, quotas: Quotas, rule: BeamRule, k: int, batch: int) -> Tensor:
    """[B, W] nodes to score in the first call, each behind its parent; NO_NODE fills up. Arguments as for `rank`."""
    levels = rank(model, quotas, rule, k, batch)
    if not levels:
        return torch.zeros(batch, 0, dtype=torch.long, device=model.trie.device)
    nodes = capped(levels, quotas)
    if limit := sum(quotas.most[quotas.ranked_levels :]):
        last = levels[-1].nodes  # what the total left out has nothing below it
        last = torch.where((last.unsqueeze(-1) == nodes.unsqueeze(1)).any(-1), last, NO_NODE)
        below = model.trie.descendants(last, limit, len(levels))
        nodes = torch.cat([nodes, narrowed(below)], dim=1)
    return nodes


def propose_level_one(trie: DeviceTrie, batch: int, most: int) -> Tensor:
    """[B, W] all nodes of level 1, where they are no more than `most`, else none: speculation without a draft.

    With them a first call decides level 2, where nearly all branching of an item trie ends.
    """
    children = trie.children(torch.zeros(batch, 1, dtype=torch.long, device=trie.device), 0).flatten(1)
    return narrowed(left_aligned(children, children >= 0)) if children.shape[1] <= most else children[:, :0]


def narrowed(nodes: Tensor) -> Tensor:
    """Left-aligned `nodes` [B, W] without unused columns, on a CPU, where padding is expensive.

    Elsewhere all columns stay: to count them would make the host wait, and shapes depend on values.
    """
    return trimmed(nodes) if nodes.device.type == "cpu" else nodes
