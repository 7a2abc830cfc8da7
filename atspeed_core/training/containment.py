"""Alignment on the event that saves target calls: all prefixes of the target's sequences are among the drafted nodes.

With n_t nodes drafted at level t and S_t the distinct prefixes of length t of the target's K sequences, all of S_t are
drafted exactly if the draft scores each of them above nu_t, the (n_t - |S_t| + 1)-th best score of all other prefixes,
since n_t - |S_t| others are drafted as well. The closer a prefix is to being left out, the more the draft learns along
its path.
"""

import torch
from torch import Tensor

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.settings import PrefixContainment
from atspeed_core.training import losses
from atspeed_core.training.distributions import ValidCodes
from atspeed_core.training.topk_cache import CachedBatch


def containment(
    draft: CodeModel, trie: DeviceTrie, prompts: Tensor, mask: Tensor, cached: CachedBatch, settings: PrefixContainment
) -> tuple[Tensor, Tensor]:
    """The loss, with gradient, and the share of contexts whose prefixes are all drafted.

    Scores are sums of the draft's log-probabilities over the full vocabulary, by which drafting ranks; divergences
    are over the valid codes.

    Args:
        draft: scores prefixes.
        trie: of all items.
        prompts: [B, S] left-padded.
        mask: [B, S].
        cached: the target's sequences and the distributions along them.
        settings: n_t and margin.
    """
    wanted = cached.nodes.masked_fill(cached.nodes == 0, NO_NODE)  # the root is always there
    others = first_left_out(draft, trie, prompts, mask, wanted, settings)
    tree = ScoredTree(draft, trie, prompts, mask)
    above = cached.nodes.masked_fill(trie.depth_of(cached.nodes) == trie.num_levels - 1, NO_NODE)
    tree.score(torch.cat([above, trie.ancestors(others)[..., 1:].flatten(1)], dim=1))
    inside, outside = _standing(tree, wanted, others)
    valid = ValidCodes(trie)
    log_q = valid.normalised(tree.next_log_probs(above)[1], above)
    divergence = losses.forward_kl(log_q, valid.normalised(cached.log_p, above))
    path = _before(trie, wanted, above).float()
    along = (path @ divergence.unsqueeze(-1)).squeeze(-1) / path.sum(-1).clamp(min=1)
    missing = torch.sigmoid(settings.margin + outside - inside)
    loss = losses.prefix_containment(along, missing, wanted >= 0)
    return loss, (inside > outside).all(1).float().mean()


@torch.no_grad()
def _standing(tree: ScoredTree, wanted: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T] scores of `wanted` [B, T] (inf for NO_NODE) and those that they must exceed, of `others` [B, L - 1]."""
    inside = tree.path_scores(wanted).masked_fill(wanted < 0, torch.inf)
    bounds = tree.path_scores(others).masked_fill(others < 0, -torch.inf)
    return inside, bounds.gather(1, (tree.trie.depth_of(wanted) - 1).clamp(min=0))


def _before(trie: DeviceTrie, wanted: Tensor, nodes: Tensor) -> Tensor:
    """[B, P, T] bool: which of `nodes` [B, T], the root among them, lie above each of `wanted` [B, P]."""
    above = trie.ancestors(trie.parents(wanted))  # [B, P, L]
    is_above = (above.unsqueeze(-1) == nodes[:, None, None, :]).any(2) | (nodes == 0).unsqueeze(1)
    return is_above & (wanted >= 0).unsqueeze(-1) & (nodes >= 0).unsqueeze(1)


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
    others = [_other(nodes, wanted, sizes[t], (depths == t + 1).sum(1)) for t, nodes in enumerate(levels)]
    return torch.stack(others or [wanted.new_full((len(wanted),), NO_NODE)], dim=1)  # one level: nothing is drafted


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
