"""Recommender: top-K lists by speculative decoding; the interface of evaluation, batch jobs and serving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from atspeed_core.decoding import reference
from atspeed_core.decoding.acceptance import Relaxed, Strict
from atspeed_core.decoding.beam_rules import BeamRule, BestScore, GumbelTopK
from atspeed_core.decoding.code_model import CodeModel, load_code_model
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.graphs import CudaCapture, Graphs
from atspeed_core.decoding.path_rows import PathRows
from atspeed_core.decoding.plan import Choice, Plan, Planned
from atspeed_core.decoding.proposals import PrefixModel, propose, propose_level_one
from atspeed_core.decoding.published import NoDrafter, UniformDrafter, search_in_rounds
from atspeed_core.decoding.retrieval import history_numbers
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.decoding.search import Begun, SearchResult, beam_search, begin, begin_step_by_step, finish, search
from atspeed_core.drafters import DRAFTERS, Drafter, drafter_for, drafter_in
from atspeed_core.errors import UserError
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.identifiers.trie import IntArray
from atspeed_core.models.building import load_prompt_encoder
from atspeed_core.models.one_shot_draft import padded_items
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.settings import DecodingConfig
from atspeed_core.verifications import VERIFICATIONS

# One pass over a tree and one pass per level sum in a different order; in float32 that moves scores by some 1e-6.
NEAR_TIE = 1e-5

# Graphs are captured for prompts, and for excluded nodes, of so many columns and their multiples.
PROMPT_BUCKET, EXCLUDED_BUCKET = 16, 16

Constraint = Literal["callback", "tensor"]

DEFAULT_DECODING = DecodingConfig()
NO_SPECULATION = Choice(speculation="none")

Draft = Any  # of the `draft_type` of one of `atspeed_core.drafters`


@dataclass(frozen=True)
class Recommendation:
    """Lists for a batch of requests.

    Attributes:
        items: item ids, best first, no duplicates; fewer than K where the allowed items are fewer.
        scores: log-probabilities of the items' identifiers.
        accepted_steps: drafted steps accepted (AS) by request, 0 .. L - 1.
        target_calls: forward passes of the target by request.
        target_nodes: trie nodes that these passes held, by request.
        unknown_items: history items by request that the catalog does not know; they were skipped.
    """

    items: list[list[str]]
    scores: list[list[float]]
    accepted_steps: list[int]
    target_calls: list[int]
    target_nodes: list[int]
    unknown_items: list[int]


@dataclass(frozen=True)
class Request:
    """A batch of requests on the device.

    Attributes:
        ids: [B, S] int64 left-padded prompts.
        mask: [B, S] int64.
        items: [B, H] int64 the same histories as places in the catalog, -1 on the left.
        trie: what each request may be recommended.
        k: list length.
    """

    ids: Tensor
    mask: Tensor
    items: Tensor
    trie: DeviceTrie
    k: int

    def tree(self, model: CodeModel) -> ScoredTree:
        """A tree behind these prompts, nothing scored yet."""
        return ScoredTree(model, self.trie, self.ids, self.mask)

    def bucketed(self, max_history: int) -> Request:
        """The same requests in tensors of one of few shapes."""
        columns = -self.ids.shape[1] % PROMPT_BUCKET
        ids, mask = (nn.functional.pad(part, (columns, 0)) for part in (self.ids, self.mask))
        items = nn.functional.pad(self.items, (max_history - self.items.shape[1], 0), value=-1)
        return Request(ids, mask, items, self.trie.bucketed(EXCLUDED_BUCKET), self.k)

    def tensors(self) -> dict[str, Tensor]:
        """What differs from one batch of requests to another."""
        parts = {"ids": self.ids, "mask": self.mask, "items": self.items}
        of_trie = {"allowed": self.trie.allowed, "excluded": self.trie.excluded}
        return parts | {name: part for name, part in of_trie.items() if part is not None}

    def holding(self, tensors: dict[str, Tensor]) -> Request:
        """Such a request with other `tensors`."""
        of_trie = {name: part for name, part in tensors.items() if name in ("allowed", "excluded")}
        trie = replace(self.trie, **of_trie)  # type: ignore[arg-type]
        return Request(tensors["ids"], tensors["mask"], tensors["items"], trie, self.k)

    def select(self, rows: Tensor) -> Request:
        """Only the requests `rows`."""
        return Request(self.ids[rows], self.mask[rows], self.items[rows], self.trie.select(rows), self.k)


@dataclass(frozen=True)
class Recommender:
    """A target, its draft, the catalog and a plan of decoding. Build one with `Recommender.load`."""

    catalog: Catalog
    encoder: PromptEncoder
    target: CodeModel
    draft: Draft | None
    trie: DeviceTrie
    plan: Plan
    decoding: DecodingConfig
    graphs: Graphs | None = None

    @classmethod
    def load(
        cls,
        target: str | Path,
        draft: str | Path | None = None,
        identifiers: str | Path = "data/identifiers/identifiers.json",
        *,
        plan: str | Path | Plan | None = None,
        decoding: DecodingConfig = DEFAULT_DECODING,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Recommender:
        """Load model folders, an identifiers file and a plan.

        Args:
            target: folder of the target model.
            draft: folder of the draft, of any kind in `atspeed_core.drafters`; without one "strict" speculates with
                the item trie alone. "relaxed" takes any that drafts in rounds.
            identifiers: LC-Rec style JSON, {"item": ["<a_1>", ...]}.
            plan: how to decode on this device (the evaluate stage writes one), a file or a plan; without
                one quotas that are generous rather than fast are used.
            decoding: settings of decoding; those of a project are `load_params(...).decoding()`.
            device: default: CUDA if there is one, else the CPU.
            dtype: default: bfloat16 on CUDA, float32 on a CPU.

        Raises:
            UserError: a folder or file is missing or does not fit the others.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        catalog = Catalog.load(identifiers)
        encoder = load_prompt_encoder(target, catalog, max_history=decoding.max_history)
        plan = plan if isinstance(plan, Plan) else Plan([], {}) if plan is None else Plan.load(plan)
        return cls(
            catalog,
            encoder,
            load_code_model(target, encoder, device, dtype),
            drafter_in(draft).load(Path(draft), encoder, device, dtype) if draft is not None else None,
            DeviceTrie.build(catalog.trie, device),
            plan,
            decoding,
            Graphs(CudaCapture()) if device.type == "cuda" else None,
        )

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.trie.device

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
        return self.drafter.num_parameters(self.draft) if self.drafter else 0

    @cached_property
    def drafter(self) -> Drafter | None:
        """The kind of the draft; None without one."""
        return None if self.draft is None else drafter_for(self.draft)

    def encode(self, histories: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Left-padded prompts: token ids [B, S] int64 and mask [B, S] int64, on the CPU."""
        return self.encoder.encode(histories)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        verification: str = "strict",
        *,
        allowed_items: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Recommendation:
        """The `k` best items for every history, all histories in one batch.

        Args:
            histories: item ids, oldest first; unknown ones are skipped and counted.
            k: list length and beam width.
            verification: name of one in `atspeed_core.verifications`.
            allowed_items: only these may be recommended; unknown ones are ignored.
            seed: of verifications that sample.

        Raises:
            UserError: an empty history, `k` out of range, an unknown verification, no draft loaded, no allowed item.
        """
        chosen = VERIFICATIONS.get(verification)
        self._check(k, allowed_items)
        if chosen.drafts_in_rounds:
            self._check_rounds(k, f"verification '{verification}'")
        request = self.prepare(histories, k, allowed_items=allowed_items)
        return self._recommendation(histories, chosen.search(self, request, seed), k)

    def offers(self, verification: str) -> bool:
        """Whether `recommend` takes this verification with the draft that is loaded."""
        return self.drafts_in_rounds or not VERIFICATIONS.get(verification).drafts_in_rounds

    @property
    def drafts_in_rounds(self) -> bool:
        """Whether the draft that is loaded can serve the published scheme."""
        return self.drafter is not None and self.drafter.drafts_in_rounds

    def without_speculation(self) -> Recommender:
        """The same recommender decoding with the target alone, one level per call."""
        return replace(self, plan=Plan([Planned(prompt_tokens=0, k=1, batch=1, choice=NO_SPECULATION)], {}))

    def target_tree(self, request: Request) -> ScoredTree:
        """A tree of the target behind the prompts of `request`, nothing scored yet."""
        kind = ScoredTree if self.decoding.tree_attention else PathRows
        return kind(self.target, request.trie, request.ids, request.mask)

    def prepare(
        self, histories: Sequence[Sequence[str]], k: int, *, allowed_items: Sequence[str] | None = None
    ) -> Request:
        """Prompts and trie of a batch on the device."""
        ids, mask = (t.to(self.device) for t in self.encode(histories))
        known = [self.encoder.known(history) for history in histories]
        items = padded_items(known, max_history=self.encoder.max_history).to(self.device)
        trie = self.trie
        if allowed_items is not None:
            trie = trie.narrowed(self.catalog.trie.ancestors_of_items(self.catalog.positions_of(allowed_items)))
        if self.decoding.exclude_history:
            trie = trie.excluding([self.catalog.trie.exhausted_by(items) for items in self._seen(histories)])
        return Request(ids, mask, items, trie, k)

    def search_best(self, request: Request, *, speculate: bool = True) -> SearchResult:
        """The lists of the target's own beam search; `speculate`: as the plan specifies, else one level per call."""
        return self.speculate(request, BestScore(), None if speculate else NO_SPECULATION)

    def search_sampled(self, request: Request, seed: int) -> SearchResult:
        """Lists sampled without replacement from the target's distribution over the items (arXiv 1903.06059)."""
        rows = torch.arange(len(request.ids), device=self.device)
        return self.speculate(request, GumbelTopK(seed, rows, self.decoding.temperature))

    def search_relaxed(self, request: Request, seed: int) -> SearchResult:
        """Lists sampled approximately, drafted in rounds as published (AtSpeed, section 3.3)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        drafter, rule = self._uniform(request, generator), Relaxed(generator, self.decoding.temperature)
        return search_in_rounds(self.target_tree(request), drafter, rule, request.k)

    def planned_choice(self, request: Request) -> Choice:
        """How the plan decodes these requests."""
        return self.plan.choice(
            prompt_tokens=request.ids.shape[1],
            k=request.k,
            batch=len(request.ids),
            levels=self.trie.num_levels,
            has_draft=self.draft is not None,
        )

    def speculate(self, request: Request, rule: BeamRule, choice: Choice | None = None) -> SearchResult:
        """Search under `rule`, speculating as `choice` says (default: the plan's choice)."""
        choice = choice or self.planned_choice(request)
        result = self._search(request, rule, choice)
        if self.dtype == torch.float32:
            self._settle_near_ties(result, request, rule)
        return result

    @torch.inference_mode()
    def _search(self, request: Request, rule: BeamRule, choice: Choice, proposal: Tensor | None = None) -> SearchResult:
        """Search as `choice` says, or with a `proposal` of the caller's."""
        if self.graphs is None or not self._has_a_graph(rule):
            return finish(self.begin(request, rule, choice, proposal), rule, choice.repair_subtree)
        with self.graphs.lock:
            return finish(self._replayed(self.graphs, request, rule, choice, proposal), rule, choice.repair_subtree)

    def begin(self, request: Request, rule: BeamRule, choice: Choice, proposal: Tensor | None = None) -> Begun:
        """The search up to where the host first has to look: drafting, the first call and what it decides.

        Without speculation it is all calls.
        """
        if proposal is None:
            proposal = self.proposal(request, rule, choice)
        tree = self.target_tree(request)
        if proposal.shape[1] or choice.repair_subtree:
            return begin(tree, proposal, request.k, rule)
        return begin_step_by_step(tree, request.k, rule)

    def _has_a_graph(self, rule: BeamRule) -> bool:
        """Whether `begin` consists of operations on tensors alone: no noise from a seed, no model that is observed."""
        return (
            isinstance(rule, BestScore)
            and type(self.target) is CodeModel
            and (self.drafter is None or self.drafter.is_fixed_program(self.draft))
            and self.decoding.tree_attention
        )

    def _replayed(
        self, graphs: Graphs, request: Request, rule: BeamRule, choice: Choice, proposal: Tensor | None
    ) -> Begun:
        """As `begin`, from a graph."""
        request = request.bucketed(self.encoder.max_history)
        inputs = request.tensors() | ({} if proposal is None else {"proposal": proposal})
        models = id(self.target), id(self.draft), id(self.trie)  # alive as long as their graph
        shapes = tuple((name, tuple(part.shape)) for name, part in inputs.items())

        def program(given: Sequence[Tensor]) -> Begun:
            tensors = dict(zip(inputs, given, strict=True))
            return self.begin(request.holding(tensors), rule, choice, tensors.get("proposal"))

        kind = (models, request.k, choice.model_dump_json(), shapes)
        return graphs.run(kind, program, list(inputs.values())).forked()

    @torch.inference_mode()
    def proposal(self, request: Request, rule: BeamRule, choice: Choice) -> Tensor:
        """[B, W] nodes for the target's first call."""
        batch = len(request.ids)
        if choice.speculation == "trie":
            return propose_level_one(request.trie, batch, choice.most[0] if choice.most else self.trie.num_nodes)
        if choice.speculation == "draft":
            return propose(self.prefixes(request), choice.quotas, self.drafting_rule(request, rule), request.k, batch)
        return torch.zeros(batch, 0, dtype=torch.long, device=self.device)

    def prepare_oracle(self, histories: Sequence[Sequence[str]], k: int) -> Callable[[], Recommendation]:
        """A strict search whose draft knows the answer and costs nothing; only calling it does the search.

        Its time is the least any drafter could reach on this device.
        """
        return partial(self.search_knowing, self.true_beams(histories, k), histories, k)

    def true_beams(self, histories: Sequence[Sequence[str]], k: int) -> Tensor:
        """[B, (L - 1) * k] the nodes that the target's own beam search goes through, NO_NODE where there are fewer."""
        self._check(k)
        return beam_search(self.target_tree(self.prepare(histories, k)), k).beams.flatten(1)

    def search_knowing(self, beams: Tensor, histories: Sequence[Sequence[str]], k: int) -> Recommendation:
        """A strict search that proposes `beams` (see `true_beams`)."""
        result = self._search(self.prepare(histories, k), BestScore(), Choice(speculation="none"), beams)
        return self._recommendation(histories, result, k)

    def search_as_published(self, histories: Sequence[Sequence[str]], k: int) -> Recommendation:
        """Strict verification by the published scheme: `draft_beams` nodes per level, drafted anew after every miss."""
        self._check(k)
        self._check_rounds(k, "the published scheme")
        request = self.prepare(histories, k)
        seed = self.drafter.sampling_seed(self.draft) if self.drafter else None
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        result = search_in_rounds(self.target_tree(request), self._uniform(request, generator), Strict(), k)
        return self._recommendation(histories, result, k)

    def sample_as_published(self, histories: Sequence[Sequence[str]], k: int, *, seed: int = 0) -> Recommendation:
        """The target's sampling-based beam search as published, without speculation: what "relaxed" approximates.

        At every level K extensions of the K beams are sampled without replacement, in proportion to exp(score /
        temperature).
        """
        self._check(k)
        request = self.prepare(histories, k)
        rule = Relaxed(torch.Generator(self.device).manual_seed(seed), self.decoding.temperature)
        return self._recommendation(histories, search_in_rounds(self.target_tree(request), NoDrafter(), rule, k), k)

    def generate(
        self,
        histories: Sequence[Sequence[str]],
        k: int,
        constraint: Constraint = "callback",
        *,
        prompt_once: bool = False,
    ) -> Recommendation:
        """The reference lists: `transformers` generate with num_beams=k, restricted to the trie by a `constraint`.

        Args:
            histories: item ids, oldest first; unknown ones are skipped.
            k: list length and beam width.
            constraint: "callback": a Python function called once per beam; "tensor": a logits processor that looks the
                trie up on the device for all beams at once. The lists are the same.
            prompt_once: compute each prompt once, not once per beam as generate does: faster, the same lists.
        """
        self._check(k)
        ids, mask = (t.to(self.device) for t in self.encode(histories))
        levels, seen = self.catalog.num_levels, self._seen(histories)
        if k > len(self.catalog.items) - max(map(len, seen)):
            raise UserError(f"k = {k}: a request's history leaves fewer items than that; lower k")
        if constraint == "tensor":
            keep: reference.Keep = reference.keep_by_tensors(
                self.prepare(histories, k).trie, self.encoder.code_ids.to(self.device), len(histories), ids.shape[1]
            )
        else:
            tokens = self.encoder.item_tokens.numpy()
            excluded = [reference.exhausted(self._prefix_counts, tokens[items]) for items in seen]
            keep = reference.keep_by_callback(self._successors, excluded, ids.shape[1])
        generated = reference.generate(
            self.target.model,
            ids,
            mask,
            keep,
            k=k,
            num_levels=levels,
            pad_id=self.encoder.pad_id,
            prompt_once=prompt_once,
        )
        leaves = reference.follow(self.trie, self.encoder.code_ids.to(self.device), generated.tokens).cpu()
        counts = torch.zeros(len(histories), dtype=torch.long)
        result = SearchResult(
            leaves, generated.scores, counts, counts + levels, counts, leaves[:, None, :0], generated.scores[:, 0]
        )
        return self._recommendation(histories, result, k)

    @torch.inference_mode()
    def _settle_near_ties(self, result: SearchResult, request: Request, rule: BeamRule) -> None:
        """Decide again what float32 cannot tell apart; the calls are counted too.

        Another order of summation moves a score by an ulp or two, and with it such a decision. Generate decides, asked
        for each request alone, for its rounding is what the lists are compared with; or the step-by-step search, where
        generate cannot decide: sampled lists, fewer items than K, a model that stands in for another.
        """
        rows = (result.margin < NEAR_TIE).nonzero().squeeze(1)
        if not len(rows):
            return
        levels = self.trie.num_levels
        if isinstance(rule, BestScore) and type(self.target) is CodeModel and bool((result.leaves[rows] >= 0).all()):
            for row in rows.tolist():
                result.leaves[row], result.scores[row] = self._generated_alone(request, row)
            result.target_calls[rows] += levels
            result.target_nodes[rows] += (levels - 1) * request.k
            return
        tied = request.select(rows)
        tree = self.target_tree(tied)
        settled = search(tree, tree.nodes[:, :0], request.k, rule=rule.select(rows))
        result.leaves[rows], result.scores[rows] = settled.leaves, settled.scores
        result.target_calls[rows] += settled.target_calls
        result.target_nodes[rows] += settled.target_nodes

    def _generated_alone(self, request: Request, row: int) -> tuple[Tensor, Tensor]:
        """Leaves [K] and scores [K] of generate for one request of a batch, without the batch's padding."""
        alone = request.select(torch.tensor([row], device=self.device))
        length = int(alone.mask.sum())
        ids, mask, code_ids = alone.ids[:, -length:], alone.mask[:, -length:], self.encoder.code_ids.to(self.device)
        keep = reference.keep_by_tensors(alone.trie, code_ids, 1, length)
        generated = reference.generate(
            self.target.model,
            ids,
            mask,
            keep,
            k=request.k,
            num_levels=self.trie.num_levels,
            pad_id=self.encoder.pad_id,
        )
        return reference.follow(alone.trie, code_ids, generated.tokens)[0], generated.scores[0]

    def prefixes(self, request: Request) -> PrefixModel:
        """The draft, which must be there, as a model of prefixes after these requests."""
        assert self.drafter is not None
        return self.drafter.prefixes(self.draft, request)

    def drafting_rule(self, request: Request, rule: BeamRule) -> BeamRule:
        """How the draft ranks: as the target does, but where the draft has a seed of its own it samples in any case.

        Such proposals depend on the draft's seed and on the history alone.
        """
        seed = self.drafter.sampling_seed(self.draft) if self.drafter else None
        if seed is not None and isinstance(rule, BestScore):
            return GumbelTopK(seed, history_numbers(request.items))
        return rule

    def _uniform(self, request: Request, generator: torch.Generator | None) -> UniformDrafter:
        assert self.drafter is not None
        return UniformDrafter(
            self.drafter.tree(self.draft, request),
            num_beams=self.decoding.draft_beams,
            num_steps=self.decoding.draft_steps,
            generator=generator,
            temperature=self.decoding.temperature,
        )

    def _check(self, k: int, allowed_items: Sequence[str] | None = None) -> None:
        if not 1 <= k <= self.catalog.trie.num_leaves:
            raise UserError(f"k = {k}: must lie between 1 and the catalog's {self.catalog.trie.num_leaves} identifiers")
        if allowed_items is not None and not len(self.catalog.positions_of(allowed_items)):
            raise UserError("allowed_items: none of them is in the catalog")

    def _check_rounds(self, k: int, scheme: str) -> None:
        if not self.drafts_in_rounds:
            able = ", ".join(drafter.name for drafter in DRAFTERS.all().values() if drafter.drafts_in_rounds)
            raise UserError(
                f"{scheme} needs a draft of another kind ({able}); load one, or request another verification"
            )
        if k > self.decoding.draft_beams:
            raise UserError(f"k = {k}: the draft proposes only {self.decoding.draft_beams} beams; raise draft_beams")

    def _recommendation(self, histories: Sequence[Sequence[str]], result: SearchResult, k: int) -> Recommendation:
        rows = zip(result.leaves.tolist(), result.scores.tolist(), self._seen(histories), strict=True)
        lists = [self._items(leaves, scores, set(seen.tolist()), k) for leaves, scores, seen in rows]
        return Recommendation(
            items=[[item for item, _ in row] for row in lists],
            scores=[[score for _, score in row] for row in lists],
            accepted_steps=result.accepted_steps.tolist(),
            target_calls=result.target_calls.tolist(),
            target_nodes=result.target_nodes.tolist(),
            unknown_items=[sum(i not in self.catalog.position for i in history) for history in histories],
        )

    def _seen(self, histories: Sequence[Sequence[str]]) -> list[IntArray]:
        """Distinct places in the catalog that each request must not be recommended."""
        if not self.decoding.exclude_history:
            return [np.empty(0, dtype=np.int64)] * len(histories)
        return [np.unique(self.catalog.positions_of(history)) for history in histories]

    def _items(self, leaves: list[int], scores: list[float], seen: set[int], k: int) -> list[tuple[str, float]]:
        """Items of the leaves; of items that share an identifier some may be seen."""
        places = self.catalog.position
        pairs = zip(leaves, scores, strict=True)
        items = [(item, score) for leaf, score in pairs for item in self.catalog.items_of_leaves([leaf])]
        return [(item, score) for item, score in items if places[item] not in seen][:k]

    @cached_property
    def _successors(self) -> reference.Successors:
        return reference.successors(self.encoder.item_tokens.numpy())

    @cached_property
    def _prefix_counts(self) -> Counter[reference.Prefix]:
        return reference.prefix_counts(self.encoder.item_tokens.numpy())
