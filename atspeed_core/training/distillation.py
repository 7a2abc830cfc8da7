"""Distillation of the one-shot draft: forward KL divergence from the target over the children of cached prefixes."""

import torch
from torch import Tensor

from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.models.one_shot_draft import OneShotDraft, Scores
from atspeed_core.training import losses
from atspeed_core.training.topk_cache import CachedBatch


def distillation(draft: OneShotDraft, scores: Scores, cached: CachedBatch, trie: DeviceTrie) -> Tensor:
    """Mean over contexts of the sum over cached prefixes of weight(prefix) KL(p(.|prefix) || q(.|prefix)).

    The weight is the share of the target's K sequences that pass a prefix, p is normalised over the valid codes.

    Args:
        draft: has the distribution q.
        scores: of `draft`, for the same contexts.
        cached: contexts with the target's distribution p.
        trie: of all items.
    """
    depths = torch.where(cached.nodes >= 0, trie.depth_of(cached.nodes), -1)
    total = torch.zeros((), device=scores.state.device)
    for depth in range(trie.num_levels):
        at_depth = depths == depth
        order = at_depth.int().argsort(dim=1, descending=True, stable=True)[:, : int(at_depth.sum(1).max())]
        nodes = torch.where(at_depth, cached.nodes, NO_NODE).gather(1, order)
        children = trie.children(nodes, depth)
        valid = children >= 0
        log_p = cached.log_p.gather(1, order.unsqueeze(-1).expand(-1, -1, cached.log_p.shape[-1]))
        log_p = losses.normalised(log_p[..., : children.shape[-1]], valid)[valid]
        log_q = draft.next_log_probs(scores, children, depth)[valid]
        weights = cached.weights.gather(1, order).unsqueeze(-1).expand_as(children)[valid]
        total = total + (weights * log_p.exp() * (log_p - log_q)).sum()
    return total / len(scores.state)
