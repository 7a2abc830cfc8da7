"""Tiny catalogs and random models for the tests of decoding and training."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from atspeed_core import Recommender
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.llama import LlamaDecoder
from atspeed_core.decoding.plan import Plan
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.building import build_model, save_model
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.models.tokenizer import build_tokenizer
from atspeed_core.settings import DecodingConfig
from tests.complete_params import Architecture

LETTERS = "abcdefgh"


def make_catalog(codes: list[tuple[int, ...]]) -> Catalog:
    """Items "0", "1", ... with the given codes."""
    return Catalog.from_identifiers(
        {str(item): [f"<{LETTERS[level]}_{code}>" for level, code in enumerate(row)] for item, row in enumerate(codes)}
    )


def make_model(tokenizer: PreTrainedTokenizerFast, *, seed: int, hidden: int = 16, layers: int = 2) -> LlamaForCausalLM:
    """A random model whose distributions are far from uniform."""
    shape = Architecture(
        hidden_size=hidden, num_layers=layers, num_heads=2, intermediate_size=2 * hidden, tie_embeddings=False
    )
    model = build_model(shape, tokenizer, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(10)
    return model.eval()


def make_recommender(catalog: Catalog, folder: Path, *, draft_seed: int = 2, **decoding: Any) -> Recommender:
    """A saved and loaded recommender of random models; `draft_seed` 1 makes the draft equal the target.

    `decoding`: fields of `DecodingConfig`.
    """
    tokenizer = build_tokenizer(catalog.code_tokens)
    catalog.save(folder / "identifiers.json")
    for name, seed in (("target", 1), ("draft", draft_seed)):
        save_model(folder / name, make_model(tokenizer, seed=seed), tokenizer, instruction="")
    files = folder / "target", folder / "draft", folder / "identifiers.json"
    return Recommender.load(*files, device="cpu", decoding=DecodingConfig(**decoding))


def build_recommender(catalog: Catalog, *, draft_seed: int, **decoding: Any) -> Recommender:
    """As `make_recommender`, without files."""
    tokenizer = build_tokenizer(catalog.code_tokens)
    encoder = PromptEncoder.build(tokenizer, catalog, max_history=20)
    models = [make_model(tokenizer, seed=seed) for seed in (1, draft_seed)]
    target, draft = (
        CodeModel(model, encoder.code_ids, LlamaDecoder.of(model, "tiny", prefix=encoder.prefix)) for model in models
    )
    trie, plan = DeviceTrie.build(catalog.trie), Plan([], {})
    return Recommender(catalog, encoder, target, draft, trie, plan, DecodingConfig(**decoding))


def make_tree(catalog: Catalog, histories: list[list[str]], *, seed: int = 1) -> ScoredTree:
    """Prompts of `histories` before a random model."""
    tokenizer = build_tokenizer(catalog.code_tokens)
    encoder = PromptEncoder.build(tokenizer, catalog, max_history=20)
    model = CodeModel(make_model(tokenizer, seed=seed), encoder.code_ids)
    return ScoredTree(model, DeviceTrie.build(catalog.trie), *encoder.encode(histories))
