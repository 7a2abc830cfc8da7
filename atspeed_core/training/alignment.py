"""Draft alignment: every method starts from the same initial draft and makes the same number of updates.

Total loss (1 - alpha) L_rec + alpha L_align (AtSpeed, section 3.2); the methods differ in L_align alone, and
`sft` has none. docs/methods.md lists them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import beam_search
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.settings import AlignDraft, Method
from atspeed_core.training import losses
from atspeed_core.training.containment import containment
from atspeed_core.training.curves import Curves
from atspeed_core.training.distributions import Support, ValidCodes, WholeVocabulary, rows_of, step_log_probs
from atspeed_core.training.loop import Schedule, epochs, train
from atspeed_core.training.prefix_trees import PrefixTree, kth_path, prefix_tree
from atspeed_core.training.recommendation_loss import recommendation_loss
from atspeed_core.training.topk_cache import CachedBatch, Context, TopkCache
from atspeed_core.training.windows import epoch_windows, token_batch


@dataclass(frozen=True)
class Aligned:
    """What the alignment loss of one batch of contexts is computed from; shapes as in `losses`.

    Attributes:
        log_q: [B, T, M] the draft's log-probabilities, with gradient.
        log_p: [B, T, M] the target's.
        log_p_kth: [B, T] the target's, of the code of its K-th best sequence at that level.
        weights: [B, T] shares of the sequences that pass a prefix.
        log_q_taken: [B, K, L] the draft's, of each code of the sequences, with gradient.
        exists: [B, K] bool which sequences there are.
    """

    log_q: Tensor
    log_p: Tensor
    log_p_kth: Tensor
    weights: Tensor
    log_q_taken: Tensor
    exists: Tensor


SequenceSource = Literal["top_k", "ground_truth", "own_beams"]
AlignmentLoss = Callable[[Aligned, AlignDraft], Tensor]
TrainingBatch = tuple[list[NDArray[np.int64]], list[np.int64]]  # windows of L_rec and numbers of contexts

# prefix_containment is none of them: it weighs prefixes by how they stand among others.
ALIGNMENT_LOSSES: dict[Method, AlignmentLoss] = {
    "wordkd": lambda a, s: losses.wordkd(a.log_q, a.log_p, a.weights),
    "tvdkd": lambda a, s: losses.atspeed_r(a.log_q, a.log_p, a.weights),
    "seqkd": lambda a, s: losses.seqkd(a.log_q_taken, a.exists),
    "atspeed_s": lambda a, s: losses.atspeed_s(a.log_q, a.log_p, a.log_p_kth, a.weights, beta=s.beta),
    "atspeed_r": lambda a, s: losses.atspeed_r(a.log_q, a.log_p, a.weights),
}


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


def align(
    draft: CodeModel, data: AlignmentData, method: Method, settings: AlignDraft, *, checkpoint: Path | None = None
) -> Curves:
    """Train `draft` in place; returns its learning curves.

    With `checkpoint`, a file, a stopped run resumes from its last state and ends with the same weights.
    """
    size = data.cache.index.num_observed if needs_next_items(method, settings) else len(data.cache)

    def batches(start: int) -> Iterator[TrainingBatch]:
        windows = epochs(lambda epoch: _epoch(data, settings, epoch), settings.batch_size, start)
        contexts = epochs(lambda epoch: _permutation(size, settings.seed, epoch), settings.batch_size, start)
        return zip(windows, contexts, strict=False)  # both endless

    def terms(batch: TrainingBatch, step: int) -> dict[str, Tensor]:
        return _losses(draft, data, method, settings, *batch, step)

    schedule = Schedule(settings.num_updates, settings.learning_rate, settings.weight_decay)
    return train(draft.model, batches, terms, schedule, label=f"aligning {method}", checkpoint=checkpoint)


def _losses(
    draft: CodeModel,
    data: AlignmentData,
    method: Method,
    settings: AlignDraft,
    windows: list[NDArray[np.int64]],
    rows: list[np.int64],
    step: int,
) -> dict[str, Tensor]:
    rec = recommendation_loss(draft.model, token_batch(windows, data.encoder))
    if method == "sft":
        return {"loss": rec, "recommendation_loss": rec}
    told = alignment_terms(draft, data, method, settings, data.cache.batch(np.array(rows), data.trie), step)
    total = (1 - settings.alpha) * rec + settings.alpha * told["alignment_loss"]
    return {"loss": total, "recommendation_loss": rec, **told}


def alignment_terms(
    draft: CodeModel, data: AlignmentData, method: Method, settings: AlignDraft, cached: CachedBatch, step: int
) -> dict[str, Tensor]:
    """The alignment loss of a method over a batch of contexts in update number `step`, and what else is told of it."""
    if method == "prefix_containment":
        prompts, mask = data.prompts(cached.contexts)
        loss, contained = containment(draft, data.trie, prompts, mask, cached, settings.prefix_containment)
        return {"alignment_loss": loss, "contained": contained}
    source = sequence_source(method, settings, step)
    aligned = aligned_batch(draft, data, cached, source=source, constrained=settings.constrained)
    return {"alignment_loss": ALIGNMENT_LOSSES[method](aligned, settings)}


def sequence_source(method: Method, settings: AlignDraft, step: int) -> SequenceSource:
    """Where the sequences Y of update number `step` come from.

    The draft's own beams take the share lambda of the updates of atspeed_s; wordkd and tvdkd go along the ground truth
    by definition, seqkd along the target's sequences.
    """
    if method == "atspeed_s" and _turn_of_own_beams(step, settings.lambda_):
        return "own_beams"
    if method in ("atspeed_s", "atspeed_r"):
        return settings.sequences
    return "top_k" if method == "seqkd" else "ground_truth"


def needs_next_items(method: Method, settings: AlignDraft) -> bool:
    """Whether a method aligns on items that came next, of which a rollout has none."""
    steps = range(settings.num_updates)
    return method in ALIGNMENT_LOSSES and any(sequence_source(method, settings, s) == "ground_truth" for s in steps)


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
    """Prefixes [B, N], `nodes` and those of the K-th best sequence among them, and the target's say [B, N, M] there.

    The cache knows the valid codes along the target's own sequences; for anything else the target runs.
    """
    if isinstance(support, WholeVocabulary):
        known = torch.cat([nodes, data.trie.parents(kth_path(cached.leaves, data.trie))], dim=1)
        return known, support.log_probs(data.target, prompts, mask, known)
    log_p = support.normalised(cached.log_p, cached.nodes)
    if nodes is cached.nodes:
        return nodes, log_p
    more = support.log_probs(data.target, prompts, mask, nodes)
    return torch.cat([nodes, cached.nodes], dim=1), torch.cat([more, log_p], dim=1)


def _turn_of_own_beams(step: int, share: float) -> bool:
    """Whether update number `step` takes the draft's own beams, so that `share` of all do, evenly spread."""
    return math.floor((step + 1) * share) > math.floor(step * share)


def _epoch(data: AlignmentData, settings: AlignDraft, epoch: int) -> list[NDArray[np.int64]]:
    return epoch_windows(
        data.sequences,
        window_items=data.encoder.max_history + 1,
        batch_size=settings.batch_size,
        seed=[settings.seed, epoch],
    )


def _permutation(size: int, seed: int, epoch: int) -> list[np.int64]:
    return list(np.random.default_rng([seed, epoch, 1]).permutation(size))
