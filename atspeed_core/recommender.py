"""Recommender: top-K lists by speculative decoding; the face that evaluation, batch jobs and serving share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from atspeed_core.decoding import reference
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.drafters import AutoregressiveDrafter, Drafter, NoDrafter, OracleDrafter
from atspeed_core.decoding.scored_tree import CodeModel, ScoredTree
from atspeed_core.decoding.search import SearchResult, search
from atspeed_core.decoding.verification import Relaxed, Strict, Verification
from atspeed_core.errors import UserError
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.identifiers.trie import IntArray
from atspeed_core.models.building import load_model, load_prompt_encoder
from atspeed_core.models.prompts import PromptEncoder

# One forward pass over a tree and a pass a level sum in different order; in float32 that moves scores by some 1e-6.
NEAR_TIE = 1e-5

VerificationName = Literal["none", "strict", "relaxed"]


@dataclass(frozen=True)
class Recommendation:
    """Lists for a batch of requests.

    Attributes:
        items: item ids, best first, no duplicates; fewer than K where the allowed items are fewer.
        scores: log-probabilities of the items' identifiers.
        accepted_steps: drafted steps accepted (AS) by request, 0 .. L - 1.
        target_calls: forward passes of the target by request.
        unknown_items: history items by request that the catalogue does not know; they were skipped.
    """

    items: list[list[str]]
    scores: list[list[float]]
    accepted_steps: list[int]
    target_calls: list[int]
    unknown_items: list[int]


@dataclass(frozen=True)
class Recommender:
    """A target, its draft and the catalogue. Build one with `Recommender.load`."""

    catalog: Catalog
    encoder: PromptEncoder
    target: CodeModel
    draft: CodeModel | None
    trie: DeviceTrie
    draft_beams: int
    draft_steps: int
    temperature: float
    exclude_history: bool

    @classmethod
    def load(
        cls,
        target: str | Path,
        draft: str | Path | None = None,
        identifiers: str | Path = "data/identifiers/identifiers.json",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        draft_beams: int = 40,
        draft_steps: int = 3,
        temperature: float = 1.0,
        max_history: int = 20,
        exclude_history: bool = False,
    ) -> Recommender:
        """Load model folders and an identifiers file.

        Args:
            target: folder of the target model.
            draft: folder of the draft model; without one only verification "none" can be asked for.
            identifiers: LC-Rec style JSON, {"item": ["<a_1>", ...]}.
            device: default: CUDA if there is one, else the CPU.
            dtype: default: bfloat16 on CUDA, float32 on a CPU.
            draft_beams: N, nodes drafted a level.
            draft_steps: gamma, levels drafted a round.
            temperature: of relaxed verification.
            max_history: most recent items of a history that the models see.
            exclude_history: items of a request's history are not recommended to it again.

        Raises:
            UserError: a folder or file is missing or does not fit the others.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        catalog = Catalog.load(identifiers)
        encoder = load_prompt_encoder(target, catalog, max_history=max_history)
        code_ids = encoder.code_ids.to(device)
        target_model = CodeModel(load_model(target, device=device, dtype=dtype), code_ids)
        draft_model = CodeModel(load_model(draft, device=device, dtype=dtype), code_ids) if draft is not None else None
        if draft is not None and load_prompt_encoder(draft, catalog, max_history=max_history).prefix != encoder.prefix:
            raise UserError(f"{draft}: the draft's prompt differs from the target's; train it from this target")
        trie = DeviceTrie.build(catalog.trie, device)
        return cls(
            catalog, encoder, target_model, draft_model, trie, draft_beams, draft_steps, temperature, exclude_history
        )

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.trie.token.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the target."""
        return self.target.model.dtype

    @property
    def target_parameters(self) -> int:
        """Number of weights of the target."""
        return self.target.model.num_parameters()

    @property
    def draft_parameters(self) -> int:
        """Number of weights of the draft, 0 without one."""
        return self.draft.model.num_parameters() if self.draft else 0

    def encode(self, histories: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Left-padded prompts: token ids [B, S] int64 and mask [B, S] int64, on the CPU."""
        return self.encoder.encode(histories)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        verification: VerificationName = "strict",
        *,
        allowed_items: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Recommendation:
        """The `k` best items for every history, all histories in one batch.

        Args:
            histories: item ids, oldest first; unknown ones are skipped and counted.
            k: list length and beam width.
            verification: "strict" gives the target's own beam search lists, faster; "none" runs that beam search;
                "relaxed" samples (AtSpeed, section 3.3).
            allowed_items: only these may be recommended; unknown ones are ignored.
            seed: of the random draws of "relaxed".

        Raises:
            UserError: an empty history, `k` out of range, an unknown verification, no draft loaded, no allowed item.
        """
        self._check(k, verification, allowed_items)
        trie = self._narrowed(allowed_items)
        generator = torch.Generator(self.device).manual_seed(seed)
        trees = self._trees(histories, trie, with_draft=verification != "none")
        rule: Verification = Relaxed(generator, self.temperature) if verification == "relaxed" else Strict()
        drafter = self._drafter(trees[1:], generator if verification == "relaxed" else None)
        result = search(trees[0], drafter, rule, k)
        if verification == "strict" and self.dtype == torch.float32:
            self._settle_near_ties(result, histories, trie, k)
        return self._recommendation(histories, result, k)

    def prepare_oracle(self, histories: Sequence[Sequence[str]], k: int) -> Callable[[], Recommendation]:
        """A strict search whose drafter knows the answer and costs nothing; only calling it does the search.

        Its time is the least any drafter could reach on this device.
        """
        self._check(k, "none", None)
        beams = search(self._trees(histories, self.trie, with_draft=False)[0], NoDrafter(), Strict(), k).beams

        def run() -> Recommendation:
            (tree,) = self._trees(histories, self.trie, with_draft=False)
            return self._recommendation(histories, search(tree, OracleDrafter(beams.flatten(1)), Strict(), k), k)

        return run

    def generate(self, histories: Sequence[Sequence[str]], k: int) -> Recommendation:
        """The reference lists: `transformers` generate with num_beams=k and a trie callback."""
        self._check(k, "none", None)
        ids, mask = (t.to(self.device) for t in self.encode(histories))
        levels, seen = self.catalog.num_levels, self._seen(histories)
        if k > len(self.catalog.items) - max(map(len, seen)):
            raise UserError(f"k = {k}: a request's history leaves fewer items than that; lower k")
        tokens = self.encoder.item_tokens.numpy()
        excluded = [reference.exhausted(self._prefix_counts, tokens[items]) for items in seen]
        made = reference.generate(
            self.target.model, ids, mask, self._successors, excluded, k=k, num_levels=levels, pad_id=self.encoder.pad_id
        )
        code_of = torch.full((int(self.encoder.code_ids.max()) + 1,), -1)
        code_of[self.encoder.code_ids] = torch.arange(len(self.encoder.code_ids))
        leaves = torch.tensor([[self._leaf_of[tuple(i)] for i in row] for row in code_of[made.tokens.cpu()].tolist()])
        counts = torch.zeros(len(histories), dtype=torch.long)
        result = SearchResult(leaves, made.scores, counts, counts + levels, leaves[:, None, :0], made.scores[:, 0])
        return self._recommendation(histories, result, k)

    @torch.inference_mode()
    def _settle_near_ties(
        self, result: SearchResult, histories: Sequence[Sequence[str]], trie: DeviceTrie, k: int
    ) -> None:
        """Take decisions closer than float32 can tell from the step-by-step search; its calls are counted too."""
        rows = (result.margin < NEAR_TIE).nonzero().squeeze(1)
        if not len(rows):
            return
        (tree,) = self._trees([histories[row] for row in rows.tolist()], trie, with_draft=False)
        settled = search(tree, NoDrafter(), Strict(), k)
        result.leaves[rows], result.scores[rows] = settled.leaves, settled.scores
        result.target_calls[rows] += settled.target_calls

    def _check(self, k: int, verification: str, allowed_items: Sequence[str] | None) -> None:
        if verification not in ("none", "strict", "relaxed"):
            raise UserError(f"verification '{verification}' is unknown; use none, strict or relaxed")
        if not 1 <= k <= self.catalog.trie.num_leaves:
            raise UserError(
                f"k = {k}: must lie between 1 and the catalogue's {self.catalog.trie.num_leaves} identifiers"
            )
        if verification != "none" and self.draft is None:
            raise UserError(f"verification '{verification}' needs a draft; load one, or ask for 'none'")
        if verification != "none" and k > self.draft_beams:
            raise UserError(f"k = {k}: the draft proposes only {self.draft_beams} beams; raise draft_beams")
        if allowed_items is not None and not len(self.catalog.positions_of(allowed_items)):
            raise UserError("allowed_items: none of them is in the catalogue")

    def _narrowed(self, allowed_items: Sequence[str] | None) -> DeviceTrie:
        if allowed_items is None:
            return self.trie
        nodes = self.catalog.trie.ancestors_of_items(self.catalog.positions_of(allowed_items))
        return replace(self.trie, allowed=torch.from_numpy(nodes).to(self.device))

    def _trees(
        self, histories: Sequence[Sequence[str]], trie: DeviceTrie, *, with_draft: bool
    ) -> tuple[ScoredTree, ...]:
        ids, mask = (t.to(trie.token.device) for t in self.encode(histories))
        if self.exclude_history:
            trie = trie.excluding([self.catalog.trie.exhausted_by(items) for items in self._seen(histories)])
        models = (self.target, self.draft) if with_draft else (self.target,)
        return tuple(ScoredTree(model, trie, ids, mask) for model in models if model is not None)

    def _drafter(self, tree: tuple[ScoredTree, ...], generator: torch.Generator | None) -> Drafter:
        if not tree:
            return NoDrafter()
        return AutoregressiveDrafter(
            tree[0],
            num_beams=self.draft_beams,
            num_steps=self.draft_steps,
            generator=generator,
            temperature=self.temperature,
        )

    def _recommendation(self, histories: Sequence[Sequence[str]], result: SearchResult, k: int) -> Recommendation:
        rows = zip(result.leaves.tolist(), result.scores.tolist(), self._seen(histories), strict=True)
        lists = [self._items(leaves, scores, set(seen.tolist()), k) for leaves, scores, seen in rows]
        return Recommendation(
            items=[[item for item, _ in row] for row in lists],
            scores=[[score for _, score in row] for row in lists],
            accepted_steps=result.accepted_steps.tolist(),
            target_calls=result.target_calls.tolist(),
            unknown_items=[sum(i not in self.catalog.position for i in history) for history in histories],
        )

    def _seen(self, histories: Sequence[Sequence[str]]) -> list[IntArray]:
        """Distinct places in the catalog that each request must not be recommended."""
        if not self.exclude_history:
            return [np.empty(0, dtype=np.int64)] * len(histories)
        return [np.unique(self.catalog.positions_of(history)) for history in histories]

    def _items(self, leaves: list[int], scores: list[float], seen: set[int], k: int) -> list[tuple[str, float]]:
        """Items of the leaves; of items that share an identifier some may be seen."""
        places = self.catalog.position
        pairs = zip(leaves, scores, strict=True)
        found = [(item, score) for leaf, score in pairs for item in self.catalog.items_of_leaves([leaf])]
        return [(item, score) for item, score in found if places[item] not in seen][:k]

    @cached_property
    def _successors(self) -> reference.Successors:
        return reference.successors(self.encoder.item_tokens.numpy())

    @cached_property
    def _prefix_counts(self) -> Counter[reference.Prefix]:
        return reference.prefix_counts(self.encoder.item_tokens.numpy())

    @cached_property
    def _leaf_of(self) -> dict[tuple[int, ...], int]:
        trie = self.catalog.trie
        first = trie.leaf_items[trie.first_item[:-1]]
        return {tuple(row): trie.first_leaf + j for j, row in enumerate(self.catalog.codes[first].tolist())}
