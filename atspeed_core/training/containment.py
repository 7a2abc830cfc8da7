"""Alignment on the event that spares calls: the target's prefixes of every level among the nodes that are drafted.

With n_t nodes drafted at level t and S_t the distinct prefixes of length t of the target's K sequences, all of S_t are
drafted exactly if the draft scores each of them above the (n_t - |S_t| + 1)-th best of all other prefixes: that many
others fit in beside them. The loss is a smooth bound of the share of contexts in which this fails at some level.
"""

import torch
from torch import Tensor

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.settings import PrefixContainment
from atspeed_core.training import losses
from atspeed_core.training.prefix_trees import prefix_tree


def containment(
    draft: CodeModel, trie: DeviceTrie, prompts: Tensor, mask: Tensor, leaves: Tensor, settings: PrefixContainment
) -> tuple[Tensor, Tensor]:
    """The loss, with gradient, and the share of contexts whose prefixes all are drafted.

    Scores are sums of the draft's log-probabilities over the full vocabulary: what drafting ranks by.

    Args:
        draft: scores prefixes.
        trie: of all items.
        prompts: [B, S] left-padded.
        mask: [B, S].
        leaves: [B, K] the target's sequences.
        settings: n_t and margin.
    """
    wanted = prefix_tree(leaves, trie).nodes
    wanted = wanted.masked_fill(wanted == 0, NO_NODE)  # the root is no question
    others = first_left_out(draft, trie, prompts, mask, wanted, settings)
    tree = ScoredTree(draft, trie, prompts, mask)
    tree.score(torch.cat([trie.ancestors(nodes)[..., 1:].flatten(1) for nodes in (wanted, others)], dim=1))
    inside = tree.path_scores(wanted).masked_fill(wanted < 0, torch.inf)
    bounds = tree.path_scores(others).masked_fill(others < 0, -torch.inf)
    outside = bounds.gather(1, (trie.depth_of(wanted) - 1).clamp(min=0))
    contained = (inside > outside).all(1).float().mean()
    return losses.prefix_containment(inside, outside, settings.margin), contained


@torch.inference_mode()
def first_left_out(
    draft: CodeModel, trie: DeviceTrie, prompts: Tensor, mask: Tensor, wanted: Tensor, settings: PrefixContainment
) -> Tensor:
    """[B, L - 1] at every level the best other prefix that is not drafted once all of `wanted` are; NO_NODE: none.

    `wanted` [B, T] int64 are distinct prefixes, NO_NODE fills up.
    """
    inner = trie.num_levels - 1
    sizes = (settings.nodes + settings.nodes[-1:] * inner)[:inner]
    was_training = draft.model.training
    draft.model.eval()
    levels = _ranked(ScoredTree(draft, trie, prompts, mask), sizes)
    draft.model.train(was_training)
    depths = torch.where(wanted >= 0, trie.depth_of(wanted), 0)
    found = [_other(nodes, wanted, sizes[t], (depths == t + 1).sum(1)) for t, nodes in enumerate(levels)]
    return torch.stack(found or [wanted.new_full((len(wanted),), NO_NODE)], dim=1)  # one level: nothing is drafted


def _ranked(tree: ScoredTree, sizes: list[int]) -> list[Tensor]:
    """[B, n_t + 1] for each level the nodes that are drafted, best first, and the next best; NO_NODE fills up."""
    levels: list[Tensor] = []
    nodes, scores = tree.nodes, torch.zeros(tree.nodes.shape, device=tree.nodes.device)
    for depth, size in enumerate(sizes):
        tree.score_new(nodes[:, :0] if depth == 0 else nodes)
        children, step = tree.next_log_probs(nodes, depth)
        together = (scores.unsqueeze(-1) + step).flatten(1)
        scores, chosen = together.topk(min(size + 1, together.shape[1]), dim=1)
        levels.append(children.flatten(1).gather(1, chosen).masked_fill(scores == -torch.inf, NO_NODE))
        nodes, scores = levels[-1][:, :size], scores[:, :size]
    return levels


def _other(nodes: Tensor, wanted: Tensor, size: int, number: Tensor) -> Tensor:
    """[B] the (size - number + 1)-th best of `nodes` that is not `wanted`, `number` [B] of which are of its level."""
    other = (nodes >= 0) & ~(nodes.unsqueeze(-1) == wanted.unsqueeze(1)).any(-1)
    place = (size - number + 1).clamp(min=1).unsqueeze(1)
    chosen = other & (other.cumsum(1) == place)
    return torch.where(chosen, nodes, NO_NODE).amax(1)
