"""Alignment on the event that spares calls: the target's prefixes of every level among the nodes that are drafted.

With n_t nodes drafted at level t and S_t the distinct prefixes of length t of the target's K sequences, all of S_t are
drafted exactly if the draft scores each of them above the (n_t - |S_t| + 1)-th best of all other prefixes: that many
others fit in beside them. The loss is a smooth bound of the share of contexts in which this fails at some level.
"""

import torch
from torch import Tensor

from atspeed_core.decoding.beam_rules import BestScore
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.decoding.drafters import AutoregressivePrefixes, Level, Quotas, rank
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
    quotas = Quotas(tuple(size + 1 for size in sizes), (torch.inf,) * inner, inner)
    was_training = draft.model.training
    draft.model.eval()
    model = AutoregressivePrefixes(ScoredTree(draft, trie, prompts, mask))
    levels = rank(model, quotas, BestScore(), wanted.shape[1], len(prompts))
    draft.model.train(was_training)
    depths = torch.where(wanted >= 0, trie.depth_of(wanted), 0)
    found = [_other(level, wanted, sizes[t], (depths == t + 1).sum(1)) for t, level in enumerate(levels)]
    return torch.stack(found or [wanted.new_full((len(wanted),), NO_NODE)], dim=1)  # one level: nothing is drafted


def _other(level: Level, wanted: Tensor, size: int, number: Tensor) -> Tensor:
    """[B] the (size - number + 1)-th best node of `level` that is not `wanted`; `number` [B]: wanted of that level."""
    other = (level.nodes >= 0) & ~(level.nodes.unsqueeze(-1) == wanted.unsqueeze(1)).any(-1)
    place = (size - number + 1).clamp(min=1).unsqueeze(1)
    chosen = other & (other.cumsum(1) == place)
    return torch.where(chosen, level.nodes, NO_NODE).amax(1)
