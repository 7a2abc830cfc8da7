"""Verification without tree attention: every drafted beam is a row of its own (the ablation "w/o TA" of AtSpeed)."""

import torch
from torch import Tensor

from atspeed_core.decoding.device_trie import NO_NODE
from atspeed_core.decoding.scored_tree import ScoredTree


class PathRows(ScoredTree):
    """A `ScoredTree` that scores new nodes path by path: the same log-probabilities, with more to compute.

    A row is the prompt and one path from the root to a node that has no new node below it; what paths share is computed
    in each of them. Only the prompts' keys and values stay from call to call.
    """

    _hidden_slots = 0  # of the cache behind the prompt: paths of earlier calls, seen by nobody

    def _first_pass(self, new: Tensor) -> None:
        batch, length = self._prompts.shape
        self._session = self.model.session(batch, length + self.trie.num_levels)
        visible = torch.ones(length, length, dtype=torch.bool, device=new.device).tril() & self._mask.unsqueeze(1)
        root = self.nodes[:, :0]
        self._forward(self._session, self._prompts, self._positions, visible, root, keep_from=length - 1)
        if new.shape[1]:
            self._score_paths(new)

    def _later_pass(self, new: Tensor) -> None:
        self.num_calls += 1
        self._score_paths(new)

    def _score_paths(self, new: Tensor) -> None:
        assert self._session is not None
        rows, path = self._paths(new)  # [R], [R, D]
        depth, known = path.shape[1], self._mask[rows]
        seen = torch.nn.functional.pad(known, (self._session.prefix_length, 0), value=True)
        seen = torch.nn.functional.pad(seen, (0, self._hidden_slots), value=False)
        own = torch.ones(depth, depth, dtype=torch.bool, device=new.device).tril() & (path >= 0).unsqueeze(1)
        visible = torch.cat([seen.unsqueeze(1).expand(-1, depth, -1), own], dim=2)
        positions = self._lengths[rows] + torch.arange(depth, device=new.device) - (path < 0).sum(1, keepdim=True)
        self._session.select(rows)
        hidden = self._session.extend(self._tokens(path), positions.clamp(min=0), visible, keep_from=0)
        self._session.select(torch.searchsorted(rows, torch.arange(len(new), device=new.device)))
        self._hidden_slots += depth
        found, columns = (path.unsqueeze(-1) == new[rows].unsqueeze(1)).max(-1)  # [R, D]
        found &= path >= 0
        log_probs = self.log_probs.new_zeros(*new.shape, self.log_probs.shape[2])
        places = rows.unsqueeze(1).expand_as(path)[found], columns[found]
        log_probs[places] = self.model.code_log_probs(hidden)[found]
        self.log_probs = torch.cat([self.log_probs, log_probs], dim=1)
        self.nodes = torch.cat([self.nodes, new], dim=1)
        self.num_nodes += path.numel()

    def _paths(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """The requests [R] of the rows, ascending, each once at least, and their nodes [R, D], NO_NODE on the left."""
        below = (self.trie.parents(new).unsqueeze(1) == new.unsqueeze(-1)).any(-1)
        last = (new >= 0) & ~below
        last[:, 0] |= ~last.any(1)  # a row of nothing for a request that asks for nothing
        path = self.trie.ancestors(new[last]).flip(-1)
        width = max(1, int((path != NO_NODE).sum(1).max()))
        return last.nonzero()[:, 0], path[:, path.shape[1] - width :]
