"""What a draft is aligned on: batches of contexts, and the models' distributions along sequences that start there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import beam_search
from atspeed_core.models.one_shot_draft import padded_items
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.settings import AlignDraft
from atspeed_core.training.distributions import Support, ValidCodes, WholeVocabulary, rows_of, step_log_probs
from atspeed_core.training.prefix_trees import PrefixTree, kth_path, prefix_tree
from atspeed_core.training.topk_cache import CachedBatch, Context, TopkCache

# The target's cached sequences, the item that came next, or what the draft's own beam search finds.
SequenceSource = Literal["top_k", "ground_truth", "own_beams"]


@dataclass(frozen=True)
class Aligned:
    """What the alignment loss of one batch of contexts is computed from; shapes as in `losses`.

    Attributes:
        log_q: [B, T, M] the draft's log-probabilities, with gradient.
        log_p: [B, T, M] the target's.
        log_p_kth: [B, T] the target's, of the code of its K-th best sequence at that level.
        weights: [B, T] shares of the sequences that pass a prefix.
        log_q_taken: [B, K, L] the draft's, of each code of the sequences, with gradient.
        exists: [B, K] bool, False where a context has fewer sequences.
    """

    log_q: Tensor
    log_p: Tensor
    log_p_kth: Tensor
    weights: Tensor
    log_q_taken: Tensor
    exists: Tensor


@dataclass(frozen=True)
class AlignmentData:
    """What all methods train on.

    Attributes:
        sequences: training items of each user, as places in the catalog.
        cache: the target's top-K sequences.
        encoder: of the prompts.
        trie: on the training device.
        target: scores what the cache does not hold.
    """

    sequences: Sequence[NDArray[np.int64]]
    cache: TopkCache
    encoder: PromptEncoder
    trie: DeviceTrie
    target: CodeModel

    def history(self, context: Context) -> NDArray[np.int64]:
        """Items of a context, oldest first, as places in the catalog."""
        items = self.sequences[context.user][: context.position]
        return np.concatenate([items, np.array(context.rollout, dtype=np.int64)])

    def prompts(self, contexts: Sequence[Context]) -> tuple[Tensor, Tensor]:
        """Left-padded prompts [B, S] of the histories of `contexts`, and their mask [B, S], on the trie's device."""
        histories = [self.history(context)[-self.encoder.max_history :] for context in contexts]
        ids, mask = self.encoder.encode_positions(histories)
        return ids.to(self.trie.device), mask.to(self.trie.device)

    def next_leaves(self, contexts: Sequence[Context]) -> Tensor:
        """[B, 1] the leaf of the item that came next in each of `contexts`, which are observed ones."""
        trie = self.encoder.catalog.trie
        items = np.array([self.sequences[c.user][c.position] for c in contexts])
        leaves = trie.first_leaf + trie.leaf_of_item[items].astype(np.int64)
        return torch.from_numpy(leaves).to(self.trie.device).unsqueeze(1)


@dataclass(frozen=True)
class AlignmentBatch:
    """A batch of contexts in one update, as an alignment loss sees it.

    Attributes:
        draft: what learns: a `CodeModel`, or a draft of another kind.
        data: what all methods train on.
        cached: the contexts with the target's top-K sequences.
        settings: of the training.
        source: which sequences `aligned` follows; None: the method aligns along none.
    """

    draft: Any
    data: AlignmentData
    cached: CachedBatch
    settings: AlignDraft
    source: SequenceSource | None

    @cached_property
    def prompts(self) -> tuple[Tensor, Tensor]:
        """Left-padded prompts [B, S] and their mask [B, S]."""
        return self.data.prompts(self.cached.contexts)

    @cached_property
    def items(self) -> Tensor:
        """[B, H] int64 the histories as places in the catalog, -1 on the left."""
        histories = [self.data.history(context) for context in self.cached.contexts]
        return padded_items(histories, max_history=self.data.encoder.max_history).to(self.data.trie.device)

    @cached_property
    def aligned(self) -> Aligned:
        """Distributions of draft (a `CodeModel`) and target along the method's sequences."""
        assert self.source is not None
        constrained = self.settings.constrained
        return aligned_batch(self.draft, self.data, self.cached, source=self.source, constrained=constrained)


def aligned_batch(
    draft: CodeModel, data: AlignmentData, cached: CachedBatch, *, source: SequenceSource, constrained: bool = True
) -> Aligned:
    """Distributions of draft (with gradient) and target along the sequences Y of a batch of contexts."""
    trie = data.trie
    prompts, mask = data.prompts(cached.contexts)
    if source == "own_beams":
        leaves = _own_beams(draft, trie, prompts, mask, cached.leaves.shape[1])
    else:
        leaves = cached.leaves if source == "top_k" else data.next_leaves(cached.contexts)
    tree = PrefixTree(cached.nodes, cached.weights) if source == "top_k" else prefix_tree(leaves, trie)
    support = _support(draft, data, constrained=constrained)
    log_q = support.log_probs(draft, prompts, mask, tree.nodes)
    known, log_p = _target_log_probs(data, support, cached, prompts, mask, tree.nodes)
    kth = step_log_probs(log_p, known, kth_path(cached.leaves, trie), support)
    path = trie.ancestors(leaves).flip(-1)  # [B, K, L]
    return Aligned(
        log_q,
        rows_of(log_p, known, tree.nodes),
        kth.gather(1, trie.depth_of(tree.nodes)),
        tree.weights,
        step_log_probs(log_q, tree.nodes, path.flatten(1), support).view(path.shape),
        leaves >= 0,
    )


def _support(draft: CodeModel, data: AlignmentData, *, constrained: bool) -> Support:
    if constrained:
        return ValidCodes(data.trie)
    sizes = [model.model.get_output_embeddings().weight.shape[0] for model in (draft, data.target)]
    return WholeVocabulary(data.trie, data.target.code_ids, min(sizes))


@torch.inference_mode()
def _own_beams(draft: CodeModel, trie: DeviceTrie, prompts: Tensor, mask: Tensor, k: int) -> Tensor:
    draft.model.eval()
    leaves = beam_search(ScoredTree(draft, trie, prompts, mask), k).leaves
    draft.model.train()
    return leaves


@torch.inference_mode()
def _target_log_probs(
    data: AlignmentData, support: Support, cached: CachedBatch, prompts: Tensor, mask: Tensor, nodes: Tensor
) -> tuple[Tensor, Tensor]:
    """Prefixes [B, N] and the target's log-probabilities [B, N, M] after them.

    The prefixes are `nodes` and those of the K-th best sequence. The cache has the valid codes along the target's own
    sequences; for all others the target runs.
    """
    if isinstance(support, WholeVocabulary):
        known = torch.cat([nodes, data.trie.parents(kth_path(cached.leaves, data.trie))], dim=1)
        return known, support.log_probs(data.target, prompts, mask, known)
    log_p = support.normalised(cached.log_p, cached.nodes)
    if nodes is cached.nodes:
        return nodes, log_p
    elsewhere = support.log_probs(data.target, prompts, mask, nodes)
    return torch.cat([nodes, cached.nodes], dim=1), torch.cat([elsewhere, log_p], dim=1)
