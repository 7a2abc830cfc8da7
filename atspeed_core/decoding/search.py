"""Top-K search over the item trie: score a proposed tree, verify what it decides, score what is missing, finish.

The lists are those of the target's own beam search, whatever was proposed. Against the published scheme (AtSpeed,
arXiv 2410.05165, section 3.1; see `published`): a level that misses a beam is repaired instead of drafted anew, a
repair holds the whole subtrees of what is missing so that the next call ends the search, and a missing beam that can
no longer reach the list is not scored at all.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atspeed_core.decoding.beam_rules import BeamRule, BestScore
from atspeed_core.decoding.device_trie import NO_NODE, DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree, left_aligned, trimmed
from atspeed_core.decoding.selection import stable_topk

ROUNDING = 1e-5  # a child's key may exceed its parent's by rounding; the bound leaves that much room


@dataclass(frozen=True)
class SearchResult:
    """The lists of a batch.

    Attributes:
        leaves: [B, K] int64 trie nodes of whole identifiers, best first; NO_NODE where fewer than K exist.
        scores: [B, K] float32 log-probabilities.
        accepted_steps: [B] int64 levels verified without a call of their own (AS), 0 .. L - 1.
        target_calls: [B] int64 forward passes of the target that a request took part in.
        target_nodes: [B] int64 trie nodes of a request that the target scored.
        beams: [B, L - 1, K] int64 verified beams of the depths 1 .. L - 1.
        margin: [B] float32 smallest gap of keys that decided the list: which beams stayed, and their final order.
    """

    leaves: Tensor
    scores: Tensor
    accepted_steps: Tensor
    target_calls: Tensor
    target_nodes: Tensor
    beams: Tensor
    margin: Tensor

    @classmethod
    def empty(cls, batch: int, levels: int, k: int, device: torch.device) -> "SearchResult":
        """No list yet, for `batch` requests."""
        steps, calls, scored = torch.zeros(3, batch, dtype=torch.long, device=device)
        nodes = torch.full((batch, levels, k), NO_NODE, device=device)
        scores = torch.full((batch, k), -torch.inf, device=device)
        return cls(nodes[:, -1], scores, steps, calls, scored, nodes[:, :-1], scores[:, 0].clone())


@dataclass(frozen=True)
class Frontier:
    """The beams of one depth.

    Attributes:
        nodes: [B, K] int64; NO_NODE fills up.
        keys: [B, K] float32 what they are ranked by, sorted.
        scores: [B, K] float32 log-probabilities.
        margin: [B] float32 smallest gap that decided which beams stayed, so far.
        missing: [B, K] bool which of them have to be scored before the depth after is decided.
    """

    nodes: Tensor
    keys: Tensor
    scores: Tensor
    margin: Tensor
    missing: Tensor

    @classmethod
    def root(cls, batch: int, k: int, device: torch.device) -> "Frontier":
        """The root alone, not scored."""
        nodes = torch.full((batch, k), NO_NODE, device=device)
        keys = torch.full((batch, k), -torch.inf, device=device)
        nodes[:, 0], keys[:, 0] = 0, 0.0
        return cls(nodes, keys, keys, keys.new_full((batch,), torch.inf), nodes == 0)

    def select(self, rows: Tensor) -> "Frontier":
        """Only the requests `rows`."""
        return Frontier(self.nodes[rows], self.keys[rows], self.scores[rows], self.margin[rows], self.missing[rows])


@dataclass(frozen=True)
class Begun:
    """A search up to where the host first has to look.

    Attributes:
        target: the prompts with what is scored so far.
        path: the beams of depth 0 .. L.
        calls: forward passes of the target so far, the same for every request.
        scored: [B] int64 trie nodes that they held.
    """

    target: ScoredTree
    path: list[Frontier]
    calls: int
    scored: Tensor

    def forked(self) -> "Begun":
        """The same, and going on with it leaves this one as it is."""
        return replace(self, target=self.target.fork())


@torch.inference_mode()
def search(
    target: ScoredTree, proposal: Tensor, k: int, *, rule: BeamRule | None = None, repair_subtree: int = 0
) -> SearchResult:
    """The `k` best identifiers for every request of `target`.

    Args:
        target: prompts, nothing scored yet.
        proposal: [B, W] int64 nodes for the first call, distinct, each below the root or below a proposed one; NO_NODE
            fills up. [B, 0]: the target's own beam search, one level per call.
        k: list length and beam width.
        rule: how beams are ranked; default: by score.
        repair_subtree: a later call takes the subtree below a missing beam along where it has no more inner nodes.
    """
    rule = rule or BestScore()
    if proposal.shape[1] or repair_subtree:
        return finish(begin(target, proposal, k, rule), rule, repair_subtree)
    return finish(begin_step_by_step(target, k, rule), rule, repair_subtree)


def beam_search(target: ScoredTree, k: int) -> SearchResult:
    """The target's own beam search: nothing proposed, one level per call."""
    return search(target, target.nodes[:, :0], k)


def begin(target: ScoredTree, proposal: Tensor, k: int, rule: BeamRule) -> Begun:
    """The first call and what it decides; arguments as for `search`.

    The host reads nothing back, and all shapes follow from those of the arguments, so a graph can hold this.
    """
    target.score_new(proposal)
    path = verify(target, rule, [Frontier.root(len(proposal), k, proposal.device)], 0)
    return Begun(target, path, 1, (proposal >= 0).sum(1))


def begin_step_by_step(target: ScoredTree, k: int, rule: BeamRule) -> Begun:
    """The target's own beam search, one level per call, to its end; nothing is read back here either."""
    at = Frontier.root(len(target.nodes), k, target.nodes.device)
    path, scored = [], torch.zeros_like(target.nodes[:, 0])
    for depth in range(target.trie.num_levels):
        new = at.nodes if depth else at.nodes[:, :0]
        target.score_new(new)
        scored += (new >= 0).sum(1)
        before, at = _extended(target, rule, at, depth)
        path.append(before)
    return Begun(target, [*path, at], len(path), scored)


def finish(begun: Begun, rule: BeamRule, repair_subtree: int) -> SearchResult:
    """Score what is missing until every list is decided; arguments as for `search`."""
    target, path = begun.target, begun.path
    batch, device = len(target.nodes), target.nodes.device
    result = SearchResult.empty(batch, target.trie.num_levels, path[0].nodes.shape[1], device)
    result.target_calls.add_(begun.calls)
    result.target_nodes.add_(begun.scored)
    rows = torch.arange(batch, device=device)
    while True:
        missing = torch.stack([frontier.missing.any(1) for frontier in path]).cpu()  # the host waits here
        late = missing.any(0)
        _record(result, path, rows, (~late).nonzero().squeeze(1).to(device))
        if not late.any():
            result.accepted_steps.copy_(target.trie.num_levels - result.target_calls)
            return result
        if not late.all():
            left = late.nonzero().squeeze(1).to(device)
            rows, rule = rows[left], rule.select(left)
            target.select(left)
            path = [frontier.select(left) for frontier in path]
        new = repair(target.trie, path, repair_subtree)
        target.score_new(new)
        result.target_calls[rows] += 1
        result.target_nodes[rows] += (new >= 0).sum(1)
        decided = int(missing.any(1).int().argmax())
        path = verify(target, rule, path[: decided + 1], decided)


def verify(target: ScoredTree, rule: BeamRule, path: list[Frontier], decided: int) -> list[Frontier]:
    """Search the scored nodes on from depth `decided`, where `path` ends; returns the beams of depth 0 .. L.

    Where a beam is not scored, the depth after it is searched among the other beams' extensions: what comes out there
    is only a guess at what to score next.
    """
    path, at = path[:-1], path[-1]
    for depth in range(decided, target.trie.num_levels):
        before, at = _extended(target, rule, at, depth)
        path.append(before)
    return [*path, at]


def _extended(target: ScoredTree, rule: BeamRule, at: Frontier, depth: int) -> tuple[Frontier, Frontier]:
    """The beams `at` a depth, told which of them are missing, and the best of the others' extensions.

    A beam that is not scored is not missing if its own key is below the k-th best extension: its extensions are too,
    for keys never rise.
    """
    k = at.nodes.shape[1]
    slots, scored = target.find(at.nodes)
    children, step = target.children_log_probs(at.nodes, slots, depth)
    made = rule.extend(at.keys, at.scores, children, step.masked_fill(~scored.unsqueeze(-1), -torch.inf))
    best, chosen = stable_topk(_padded(made.keys.flatten(1), k + 1, -torch.inf), k + 1)
    worst, bound = best[:, k - 1], at.keys.masked_fill(scored, -torch.inf)
    missing = ~scored & (bound >= worst.unsqueeze(1) - ROUNDING)
    keys, chosen = best[:, :k], chosen[:, :k]
    nodes = _padded(children.flatten(1), k, NO_NODE).gather(1, chosen).masked_fill(keys == -torch.inf, NO_NODE)
    scores = _padded(made.scores.flatten(1), k, -torch.inf).gather(1, chosen)
    margin = torch.minimum(at.margin, _gap(worst, torch.maximum(best[:, k], bound.amax(1))))
    return replace(at, missing=missing), Frontier(nodes, keys, scores, margin, torch.zeros_like(missing))


def repair(trie: DeviceTrie, path: list[Frontier], limit: int) -> Tensor:
    """[B, W] the missing beams and those of their subtrees that have at most `limit` inner nodes."""
    inner = path[1:]  # the root is never missing once it is scored
    nodes = torch.cat([frontier.nodes for frontier in inner], dim=1)
    missing = trimmed(left_aligned(nodes, torch.cat([frontier.missing for frontier in inner], dim=1)))
    if not limit:
        return missing
    sizes = trie.num_below(missing)
    small = (missing >= 0) & (sizes > 0) & (sizes <= limit)
    width = int(torch.where(small, sizes, 0).sum(1).max())
    if not width:
        return missing
    below = trie.descendants(trimmed(left_aligned(missing, small)), width, 1)
    return torch.cat([missing, trimmed(below)], dim=1)


def _record(result: SearchResult, path: list[Frontier], rows: Tensor, done: Tensor) -> None:
    """Keep the lists of those requests of `path` that are `done` (indices); `rows` are their places in the batch."""
    ready, last = rows[done], path[-1]
    final = _gap(last.keys[:, :-1], last.keys[:, 1:])
    final = torch.nn.functional.pad(final, (0, 1), value=torch.inf).amin(1)
    result.leaves[ready], result.scores[ready] = last.nodes[done], last.scores[done]
    result.margin[ready] = torch.minimum(last.margin, final)[done]
    for depth, frontier in enumerate(path[1:-1]):
        result.beams[ready, depth] = frontier.nodes[done]


def _gap(better: Tensor, worse: Tensor) -> Tensor:
    """Better - worse, inf where both are -inf."""
    return (better - worse).nan_to_num(nan=torch.inf)


def _padded(values: Tensor, width: int, fill: float) -> Tensor:
    """`values` [B, n] with at least `width` columns."""
    return torch.nn.functional.pad(values, (0, max(0, width - values.shape[1])), value=fill)
