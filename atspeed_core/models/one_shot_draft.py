"""The one-shot drafter: one small forward over a history, from which every prefix of the trie has a probability.

An autoregressive draft runs once per level; this one reads the history once, and its state scores *units*, which are
the prefixes down to some depth and the codes of the deeper levels. A softmax over the prefixes of one depth, below
which an item trie hardly branches, gives their probabilities and, as sums, those of all depths above. Below that depth,
siblings share their parent's probability by the scores of their own units; only the requested ones are computed. A
depth has units of its own if decoding drafts it and it has no more than `MAX_PREFIXES` prefixes, so weights and work
are bounded for any catalog. Weights: two tables of [units, hidden size] float32, 18 MB for Amazon Beauty (12,023
identifiers, 18,000 units) at hidden size 128, and 4 bytes per level of every item.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from atspeed_core.errors import UserError
from atspeed_core.files import read_json, replacing
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.draft_folder import CONFIG, drafter_of
from atspeed_core.settings import OneShotShape

KIND = "one_shot"
FORMAT = 2  # of the weights' meaning; 1: softmax over the deepest drafted level
PADDING = -1
MAX_PREFIXES = 1 << 17  # of a depth whose prefixes are units
WEIGHTS = "model.safetensors"


class Scores(NamedTuple):
    """The output of a draft for some histories.

    Attributes:
        log_probs: [B, n] float32 log-probabilities of the prefixes down to the depth of the softmax; column i belongs
            to node i + 1.
        state: [B, hidden size] scores the units below that depth.
    """

    log_probs: Tensor
    state: Tensor


class OneShotDraft(nn.Module):
    """Ranks the prefixes of the item trie after a history, in one forward.

    A pre-norm transformer reads the items, each the sum of its units' embeddings and one of its place counted from the
    end; the last item's state scores the units.

    Attributes:
        shape: the architecture.
        max_history: most recent items that a history holds.
        num_units: number of units.
    """

    item_units: Tensor  # [items, L] int32 unit of every level of an item's identifier
    node_units: Tensor  # [nodes] int32 unit of the edge into a node; the root's entry is unused
    parents: Tensor  # [nodes] int32 place of the parent among the nodes of its depth

    def __init__(self, shape: OneShotShape, catalog: Catalog, *, max_history: int, seed: int) -> None:
        """A draft with random weights that depend on `seed` alone."""
        super().__init__()
        self.shape, self.max_history = shape, max_history
        self._depth_start: list[int] = catalog.trie.depth_start.tolist()
        self._own_depths = own_depths(catalog)
        # The depth of the softmax: that of the last drafted level would cost more and be no better.
        self._softmax_depth = min(self._own_depths, max(1, catalog.num_levels - 2))
        self._register_trie(catalog)
        self.num_units = 1 + int(self.node_units.max())
        hidden = shape.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embeddings = nn.Embedding(self.num_units, hidden)
            self.places = nn.Embedding(max_history, hidden)
            self.blocks = nn.ModuleList(Block(hidden, shape.num_heads, shape.dropout) for _ in range(shape.num_layers))
            self.norm = nn.LayerNorm(hidden)
            self.head = nn.Linear(hidden, self.num_units)
            for table in (self.embeddings, self.places):
                nn.init.normal_(table.weight, std=hidden**-0.5)
        self.eval()

    def _register_trie(self, catalog: Catalog) -> None:
        units, paths = units_of_nodes(catalog), paths_of_items(catalog)
        start = np.array(self._depth_start)
        depth = np.repeat(np.arange(catalog.num_levels + 1), np.diff(start))
        parents = catalog.trie.parent - start[depth - 1]
        for name, array in (("item_units", units[paths]), ("node_units", units), ("parents", parents)):
            self.register_buffer(name, torch.from_numpy(array.astype(np.int32)), persistent=False)

    def forward(self, items: Tensor) -> Scores:
        """The scores after the histories `items`.

        Args:
            items: [B, H] int64 places in the catalog, oldest first, padded with -1 on the left (`padded_items`).
        """
        state = self._state(items)
        raw = self._all_logits(state, slice(0, self._units(self._softmax_depth).stop))
        logits = raw[:, self._units(1)]
        for depth in range(2, self._softmax_depth + 1):
            above = logits.gather(1, self._parents(depth).expand(len(raw), -1))
            logits = raw[:, self._units(depth)] + above
        levels = [torch.log_softmax(logits, dim=1)]
        for depth in range(self._softmax_depth, 1, -1):
            levels.insert(
                0, _summed(levels[0], self._parents(depth), self._depth_start[depth] - self._depth_start[depth - 1])
            )
        return Scores(torch.cat(levels, dim=1), state)

    def next_log_probs(self, scores: Scores, children: Tensor, depth: int) -> Tensor:
        """Log-probabilities of children given their parents, for some nodes of one depth.

        Args:
            scores: from `forward`.
            children: [B, n, M] int64 children of nodes of depth `depth`, -1 where there is none; below the depth of the
                softmax, absent children are left out of the siblings' sum.
            depth: 0 .. L - 1.

        Returns:
            [B, n, M] float32, -inf where there is no child.
        """
        units = self.node_units[children.clamp(min=1)].long()
        if depth >= self._softmax_depth:
            logits = self._logits(scores.state, units, depth + 1).masked_fill(children < 0, -torch.inf)
            return torch.where(children >= 0, logits - logits.logsumexp(-1, keepdim=True), -torch.inf)
        total = scores.log_probs.gather(1, units.flatten(1)).view(children.shape).masked_fill(children < 0, -torch.inf)
        if depth == 0:
            return total
        parents = self._units(depth).start + self.parents[children.amax(-1).clamp(min=1)].long()
        return total - scores.log_probs.gather(1, parents).unsqueeze(-1)

    def prefix_log_probs(self, items: Tensor) -> list[Tensor]:
        """Log-probabilities of all prefixes of each depth 1 .. L after the histories `items`, for inspection only.

        Returns:
            L tensors; number t is [B, nodes of depth t + 1] float32. The probabilities of a depth sum to 1, and a
            prefix has the sum of its children's.
        """
        scores = self(items)
        levels = [scores.log_probs[:, self._units(depth)] for depth in range(1, self._softmax_depth + 1)]
        for depth in range(self._softmax_depth + 1, len(self._depth_start) - 1):
            parents, units = self._parents(depth), self._units(depth)
            nodes = self.node_units[self._depth_start[depth] : self._depth_start[depth + 1]].long() - units.start
            logits = self._all_logits(scores.state, units).index_select(1, nodes)
            above = levels[-1] - _summed(logits, parents, levels[-1].shape[1])
            levels.append(logits + above.index_select(1, parents))
        return levels

    def _logits(self, state: Tensor, units: Tensor, depth: int) -> Tensor:
        """[B, n, M] float32 scores of `units` [B, n, M], which are of nodes of one depth."""
        every = self._units(depth)
        if units[0].numel() >= every.stop - every.start:
            places = (units - every.start).clamp(min=0).flatten(1)  # where there is no child, any unit will do
            return self._all_logits(state, every).gather(1, places).view(units.shape)
        wanted = functional.embedding(units.flatten(1), self.head.weight)
        return ((wanted @ state.unsqueeze(-1)).squeeze(-1) + self.head.bias[units.flatten(1)]).float().view(units.shape)

    def _all_logits(self, state: Tensor, units: slice) -> Tensor:
        """[B, n] float32 scores of all `units`."""
        return functional.linear(state, self.head.weight[units], self.head.bias[units]).float()

    def _state(self, items: Tensor) -> Tensor:
        """[B, hidden size] the state at the place of the last item, which encodes the history."""
        known = items >= 0
        units = self.item_units[items.clamp(min=0)]  # [B, H, L]
        embedded = self.embeddings(units).sum(-2) * known.unsqueeze(-1)
        place = torch.arange(items.shape[1] - 1, -1, -1, device=items.device)
        states = embedded + self.places(place)
        # A place sees the known items and itself, so that a row of padding alone is no 0 / 0.
        itself = torch.eye(items.shape[1], dtype=torch.bool, device=items.device)
        visible = (known[:, None, :] | itself).unsqueeze(1)  # [B, 1, H, H]
        for block in self.blocks[:-1]:
            states = block(states, states, visible)
        last: Tensor = self.blocks[-1](states[:, -1:], states, visible[:, :, -1:])
        return functional.layer_norm(last, self.norm.normalized_shape, self.norm.weight, self.norm.bias).squeeze(1)

    def _units(self, depth: int) -> slice:
        """The units of the nodes of a depth: themselves, or all deeper codes."""
        if depth > self._own_depths:
            return slice(self._depth_start[self._own_depths + 1] - 1, self.num_units)
        return slice(self._depth_start[depth] - 1, self._depth_start[depth + 1] - 1)

    def _parents(self, depth: int) -> Tensor:
        """[nodes of the depth] place of each one's parent among the nodes above."""
        return self.parents[self._depth_start[depth] : self._depth_start[depth + 1]].long()


def _summed(log_probs: Tensor, parents: Tensor, num_parents: int) -> Tensor:
    """[B, num_parents] log-sum-exp of the columns of `log_probs` [B, n] that share a parent; every parent has one."""
    places = parents.expand_as(log_probs)
    most = log_probs.new_full((len(log_probs), num_parents), -torch.inf)
    most = most.scatter_reduce(1, places, log_probs.detach(), "amax")
    total = torch.zeros_like(most).scatter_add(1, places, torch.exp(log_probs - most.gather(1, places)))
    return most + total.log()


class Block(nn.Module):
    """Pre-norm attention of some places to all, then a feed-forward layer of four times the width."""

    def __init__(self, hidden: int, num_heads: int, dropout: float) -> None:
        """`num_heads` divides `hidden`."""
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.queries, self.keys_values = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.mixed = nn.Linear(hidden, hidden)
        self.inner, self.outer = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, context: Tensor, visible: Tensor) -> Tensor:
        """New `states` [B, Q, hidden], which see those of `context` [B, H, hidden] that `visible` [B, 1, Q, H] says."""
        queries = self.queries(self.attention_norm(states)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        both = self.keys_values(self.attention_norm(context)).unflatten(-1, (2, self.num_heads, -1))
        keys, values = both.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
        states = states + self.dropout(self.mixed(attended.transpose(1, 2).flatten(2)))
        transformed: Tensor = self.dropout(self.outer(functional.gelu(self.inner(self.feed_forward_norm(states)))))
        return states + transformed


def padded_items(histories: Sequence[Sequence[int] | NDArray[np.int64]], *, max_history: int) -> Tensor:
    """[B, H] int64: the most recent `max_history` items of each history (places in the catalog), -1 on the left."""
    recent = [np.asarray(history, dtype=np.int64)[-max_history:] for history in histories]
    length = max(1, *map(len, recent))
    rows = np.full((len(recent), length), PADDING)
    for row, places in zip(rows, recent, strict=True):
        row[length - len(places) :] = places
    return torch.from_numpy(rows)


def own_depths(catalog: Catalog) -> int:
    """Down to which depth prefixes are units: the last one is never drafted, and `MAX_PREFIXES` is a limit."""
    sizes = np.diff(catalog.trie.depth_start)[1:]  # of depth 1 .. L
    deepest = max(1, catalog.num_levels - 1)
    return max(1, int((sizes[:deepest] <= MAX_PREFIXES).sum()))


def units_of_nodes(catalog: Catalog) -> NDArray[np.int64]:
    """[nodes] unit of the edge into each node; 0, which means nothing, for the root."""
    trie = catalog.trie
    deep = int(trie.depth_start[own_depths(catalog) + 1])  # the first node whose unit is its code
    units = np.arange(-1, trie.num_nodes - 1)
    units[0] = 0
    if deep < trie.num_nodes:
        units[deep:] = deep - 1 + trie.token[deep:] - trie.token[deep:].min()
    return units


def paths_of_items(catalog: Catalog) -> NDArray[np.int64]:
    """[items, L] the nodes of depth 1 .. L of each item."""
    trie = catalog.trie
    nodes = trie.first_leaf + trie.leaf_of_item
    path = [nodes]
    for _ in range(trie.num_levels - 1):
        path.append(trie.parent[path[-1]])
    return np.stack(path[::-1], axis=1)


def unit_names(catalog: Catalog) -> list[str]:
    """The code tokens of each unit, joined: "<a_3>", "<a_3><b_14>", "<c_15>"; the same in every catalog."""
    trie, units = catalog.trie, units_of_nodes(catalog)
    deep = int(trie.depth_start[own_depths(catalog) + 1])
    names = [""] * (1 + int(units.max()))
    for node in range(1, trie.num_nodes):
        before = names[trie.parent[node] - 1] if trie.parent[node] > 0 and node < deep else ""
        names[units[node]] = before + catalog.code_tokens[trie.token[node]]
    return names


def build_from(
    folder: str | Path, earlier: Catalog, shape: OneShotShape, catalog: Catalog, *, max_history: int, seed: int
) -> OneShotDraft:
    """A draft for `catalog` with the weights of the one in `folder`, which is for the catalog `earlier`.

    Rows of units follow their names. A prefix that is new starts at the mean of its siblings, a new code at that of its
    level, and any other unit at the mean of all.

    Raises:
        UserError: the folder's draft has another shape, or is not for `earlier`.
    """
    before = load_one_shot(folder, earlier)
    if difference := shape_difference(folder, shape, max_history=max_history):
        raise UserError(f"{folder}: has another shape: {difference}")
    draft = OneShotDraft(shape, catalog, max_history=max_history, seed=seed)
    rows = _rows_by_name(unit_names(earlier), unit_names(catalog))
    weights = before.state_dict()
    for name in ("embeddings.weight", "head.weight", "head.bias"):
        weights[name] = torch.stack([weights[name][row].mean(0) for row in rows])
    draft.load_state_dict(weights)
    return draft


def _rows_by_name(before: list[str], now: list[str]) -> list[list[int]]:
    """For each unit of `now` the units of `before` whose mean it starts at."""
    places = {name: [place] for place, name in enumerate(before)}
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(before):
        groups.setdefault(_group(name), []).append(place)
    return [places.get(name) or groups.get(_group(name)) or list(range(len(before))) for name in now]


def _group(name: str) -> str:
    """What siblings, or the codes of a level, have in common: "<a_3><b" of "<a_3><b_14>"."""
    return name.rpartition("_")[0]


def shape_difference(folder: str | Path, shape: OneShotShape, *, max_history: int) -> str:
    """In what the draft in `folder` differs from `shape`; empty where it does not.

    Raises:
        UserError: the folder holds no one-shot draft.
    """
    config, wanted = _config(folder), _shape(shape, max_history)
    return "; ".join(f"{k} {config.get(k)}, now {v}" for k, v in wanted.items() if config.get(k) != v)


def save_one_shot(
    folder: str | Path, draft: OneShotDraft, catalog: Catalog, *, extra_files: dict[str, str] | None = None
) -> None:
    """Write config.json, model.safetensors and `extra_files`, all or nothing."""
    config = {"drafter": KIND, **_shape(draft.shape, draft.max_history), "num_units": draft.num_units}
    config["identifiers"] = _digest(catalog)
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file({name: weight.cpu() for name, weight in draft.state_dict().items()}, temporary / WEIGHTS)
        for name, text in {CONFIG: json.dumps(config, indent=2) + "\n", **(extra_files or {})}.items():
            (temporary / name).write_text(text, encoding="utf-8")


def load_one_shot(folder: str | Path, catalog: Catalog, *, device: torch.device | str = "cpu") -> OneShotDraft:
    """A saved draft in eval mode.

    Raises:
        UserError: no one-shot draft is there, or one that is damaged, of another format or for other identifiers.
    """
    config = _config(folder)
    if config.get("format") != FORMAT:
        raise UserError(f"{folder}: saved by another version of this code; run align_draft again")
    if config.get("identifiers") != _digest(catalog):
        raise UserError(f"{folder}: trained for other identifiers than the catalog's; run align_draft again")
    try:
        shape = OneShotShape(**{name: config[name] for name in SHAPE}, dropout=0.0)
        draft = OneShotDraft(shape, catalog, max_history=config["max_history"], seed=0)
        draft.load_state_dict(load_file(Path(folder) / WEIGHTS))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged ({' '.join(str(error).split()):.160}); run align_draft again") from None
    return draft.to(device)


SHAPE = ("hidden_size", "num_layers", "num_heads")  # settings that the weights' shapes depend on


def _shape(shape: OneShotShape, max_history: int) -> dict[str, int]:
    return {"format": FORMAT, **{name: getattr(shape, name) for name in SHAPE}, "max_history": max_history}


def _config(folder: str | Path) -> dict[str, Any]:
    if drafter_of(folder) != KIND:
        raise UserError(f"{folder}: no one-shot draft there; run align_draft with method one_shot")
    config: dict[str, Any] = read_json(Path(folder) / CONFIG)
    return config


def _digest(catalog: Catalog) -> str:
    """Sixteen hexadecimal digits that change with the distinct identifiers."""
    total = hashlib.sha256()
    trie = catalog.trie
    for token, parent in zip(trie.token[1:].tolist(), trie.parent[1:].tolist(), strict=True):
        total.update(f"{parent} {catalog.code_tokens[token]}\n".encode())
    return total.hexdigest()[:16]
