"""The top-K sequence cache: for every training context the target's best sequences and the distributions along them.

Alignment reads this instead of running the target (AtSpeed, section 3.2). A context is a training history cut before
one of its items, or a whole one that the target has carried on: a draft is asked about histories that are longer than
those of training, and one that has only seen these misses more there. Stored per context: the K leaves and scores of
the target's beam search, and for each distinct proper prefix of those sequences the log-probabilities of its children
in the trie (the valid codes) as float16. Which prefixes these are, and which codes the values belong to, follows from
leaves and trie, so neither is stored.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import beam_search
from atspeed_core.errors import UserError
from atspeed_core.files import read_json, replacing, write_json
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.progress import track
from atspeed_core.training.prefix_trees import prefix_tree

logger = logging.getLogger(__name__)
INDEX = "index.json"
NO_ITEM = -1


@dataclass(frozen=True)
class Context:
    """A training user's history before one of the user's items, or all of it and what the target drew to follow.

    Attributes:
        user: number of the user in the training file.
        position: number of items before the cut, at least 1.
        rollout: items sampled to follow them, as places in the catalog.
    """

    user: int
    position: int
    rollout: tuple[int, ...] = ()

    @property
    def observed(self) -> bool:
        """Whether it is a user's real history, so that there is an item that came next."""
        return not self.rollout


def choose_contexts(lengths: Sequence[int], per_user: int, *, seed: int) -> list[Context]:
    """For every user with two items: the last one's context and up to `per_user` - 1 others, sampled by `seed`."""
    rng = np.random.default_rng(seed)
    contexts = []
    for user, length in enumerate(lengths):
        if length < 2:
            continue
        others = rng.permutation(np.arange(1, length - 1))[: per_user - 1]
        contexts += [Context(user, int(position)) for position in sorted(others)] + [Context(user, length - 1)]
    return contexts


@dataclass(frozen=True)
class Sequences:
    """What the target says about a batch of contexts.

    Attributes:
        leaves: [B, K] int64 trie nodes of the best sequences, best first.
        scores: [B, K] float32 log-probabilities.
        values: float16, log-probabilities of the children of every prefix, one context after the other.
        counts: [B] int64 number of values of each context.
    """

    leaves: Tensor
    scores: Tensor
    values: Tensor
    counts: Tensor


@torch.inference_mode()
def top_sequences(model: CodeModel, trie: DeviceTrie, prompts: Tensor, mask: Tensor, k: int) -> Sequences:
    """The target's `k` best sequences for left-padded `prompts` [B, S] and the distributions along them."""
    tree = ScoredTree(model, trie, prompts, mask)
    found = beam_search(tree, k)  # all requests end together and stay in the tree
    children, log_probs = tree.next_log_probs(prefix_tree(found.leaves, trie).nodes)
    valid = children >= 0
    return Sequences(found.leaves, found.scores, log_probs[valid].half(), valid.flatten(1).sum(1))


@dataclass(frozen=True)
class CacheIndex:
    """What index.json says.

    Attributes:
        top_k: K.
        contexts_per_shard: contexts in every shard but the last.
        num_contexts: contexts in all.
        num_observed: the first of them, which are real histories; the rest are rollouts.
        num_users: training users among them.
        num_bytes: size of all shards.
    """

    top_k: int
    contexts_per_shard: int
    num_contexts: int
    num_observed: int
    num_users: int
    num_bytes: int

    @property
    def bytes_per_user(self) -> float:
        """Size on disk for each training user."""
        return self.num_bytes / max(1, self.num_users)


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.safetensors"


@dataclass(frozen=True)
class TopkSearch:
    """What finds the target's `top_k` sequences of a context, `batch_size` contexts at a time."""

    model: CodeModel
    encoder: PromptEncoder
    trie: DeviceTrie
    top_k: int
    batch_size: int

    def batches(self, histories: Sequence[Sequence[str]]) -> list[Sequences]:
        """The sequences of every history, one element per batch."""
        device = self.trie.device
        batches = []
        for start in range(0, len(histories), self.batch_size):
            prompts, mask = self.encoder.encode(histories[start : start + self.batch_size])
            batches.append(top_sequences(self.model, self.trie, prompts.to(device), mask.to(device), self.top_k))
        return batches


def write_shards(
    folder: Path,
    contexts: Sequence[Context],
    histories: Sequence[Sequence[str]],
    search: TopkSearch,
    *,
    contexts_per_shard: int,
) -> CacheIndex:
    """Compute and write every shard that `folder` does not hold yet; `histories` are those of `contexts`.

    Rollouts come last. A shard is whole or absent, so a killed run resumes where it stopped.
    """
    numbers = range(0, len(contexts), contexts_per_shard)
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(track(numbers, "caching the target's top-K", total=len(numbers))):
        path, span = folder / shard_name(number), slice(start, start + contexts_per_shard)
        if path.exists():
            logger.info("%s is there already", path.name)
            continue
        batches = search.batches(histories[span])
        with replacing(path) as temporary:
            save_file(_shard(contexts[span], batches), temporary)
    size = sum(path.stat().st_size for path in folder.glob("shard-*"))
    users = len({context.user for context in contexts})
    observed = sum(context.observed for context in contexts)
    return CacheIndex(search.top_k, contexts_per_shard, len(contexts), observed, users, size)


def _shard(contexts: Sequence[Context], made: Sequence[Sequences]) -> dict[str, Tensor]:
    counts = torch.cat([part.counts for part in made]).cpu()
    return {
        "user": torch.tensor([c.user for c in contexts], dtype=torch.int32),
        "position": torch.tensor([c.position for c in contexts], dtype=torch.int32),
        "rollout": _padded([c.rollout for c in contexts]),
        "leaves": torch.cat([part.leaves for part in made]).int().cpu(),
        "scores": torch.cat([part.scores for part in made]).cpu(),
        "values": torch.cat([part.values for part in made]).cpu(),
        "offsets": torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
    }


def _padded(rollouts: Sequence[Sequence[int]]) -> Tensor:
    """[contexts, longest] int32; -1 fills up."""
    longest = max(map(len, rollouts), default=0)
    return torch.tensor([[*r, *[NO_ITEM] * (longest - len(r))] for r in rollouts], dtype=torch.int32)


@dataclass(frozen=True)
class CachedBatch:
    """Cached contexts in a form to compute losses with.

    Attributes:
        contexts: the contexts, in the order of the rows.
        leaves: [B, K] int64 the target's best sequences.
        nodes: [B, T] int64 their distinct prefixes, NO_NODE fills up.
        weights: [B, T] float32, see `prefix_trees.PrefixTree`.
        log_p: [B, T, M] float32 the target's log-probabilities of each prefix's children, -inf where there is none.
    """

    contexts: list[Context]
    leaves: Tensor
    nodes: Tensor
    weights: Tensor
    log_p: Tensor


class TopkCache:
    """Reads a cache folder by memory map: only the rows asked for are ever loaded."""

    def __init__(self, folder: str | Path) -> None:
        """Open the cache in `folder`.

        Raises:
            UserError: there is no index, or a shard is missing or damaged.
        """
        folder = Path(folder)
        try:
            self.index = CacheIndex(**read_json(folder / INDEX))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder / INDEX}: not readable ({error}); run the cache_topk stage") from None
        num_shards = -(-self.index.num_contexts // self.index.contexts_per_shard)
        self._shards = [_open(folder / shard_name(number)) for number in range(num_shards)]

    def __len__(self) -> int:
        """Number of contexts."""
        return self.index.num_contexts

    def batch(self, rows: NDArray[np.int64], trie: DeviceTrie) -> CachedBatch:
        """Load the contexts numbered `rows` to the device of `trie`."""
        device = trie.device
        parts = [self._row(int(row)) for row in rows]
        leaves = torch.stack([leaves for _, leaves, _ in parts]).long().to(device)
        tree = prefix_tree(leaves, trie)
        valid = trie.has_children(tree.nodes)
        log_p = torch.full(valid.shape, -torch.inf, device=device)
        log_p.masked_scatter_(valid, torch.cat([values for _, _, values in parts]).float().to(device))
        return CachedBatch([context for context, _, _ in parts], leaves, tree.nodes, tree.weights, log_p)

    def _row(self, row: int) -> tuple[Context, Tensor, Tensor]:
        shard = self._shards[row // self.index.contexts_per_shard]
        i = row % self.index.contexts_per_shard
        start, end = shard["offsets"][i : i + 2].tolist()
        rollout = tuple(item for item in shard["rollout"][i].tolist() if item != NO_ITEM)
        context = Context(int(shard["user"][i]), int(shard["position"][i]), rollout)
        return context, shard["leaves"][i], shard["values"][start:end]


def _open(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard, whose pages are read from the file when they are looked at."""
    try:
        shard = safe_open(path, framework="pt")
        return {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); run the cache_topk stage again") from None


def write_index(folder: Path, index: CacheIndex) -> None:
    """Write index.json; done last, so that a folder with an index is whole."""
    write_json(folder / INDEX, asdict(index))
