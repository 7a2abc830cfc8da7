"""Building target and draft from scratch, taking a base model, loading and saving model folders."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from atspeed_core.errors import UserError
from atspeed_core.files import replacing
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.models.packaged import pretrained_place
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.models.tokenizer import add_codes
from atspeed_core.settings import Architecture

disable_progress_bar()  # reading and writing weights is no work to watch

PROMPT_FILE = "prompt.json"
SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")  # decoders with rotary positions and full attention


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> LlamaForCausalLM:
    """A llama-architecture model with random weights that depend on `seed` alone."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=architecture.num_heads,
        intermediate_size=architecture.intermediate_size,
        max_position_embeddings=2048,
        tie_word_embeddings=architecture.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def start_from_codebooks(
    model: PreTrainedModel, code_ids: Sequence[int], code_vectors: NDArray[np.float32], *, seed: int
) -> None:
    """Set the embeddings of the codes to their codebook vectors, so that similar items start out similar.

    Args:
        model: a model from scratch.
        code_ids: token id of each code.
        code_vectors: [codes, dimensions] float32; a random rotation maps them to the hidden size.
        seed: of the rotation.
    """
    embeddings = model.get_input_embeddings().weight
    assert isinstance(embeddings, Tensor)
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(2 * [max(code_vectors.shape[1], embeddings.shape[1])], generator=generator)
    rotation = torch.linalg.qr(square).Q[: code_vectors.shape[1], : embeddings.shape[1]]
    vectors = torch.from_numpy(code_vectors) @ rotation
    with torch.no_grad():
        embeddings[torch.tensor(code_ids)] = vectors * (model.config.initializer_range / vectors.std())


def add_dropout(model: PreTrainedModel, probability: float) -> None:
    """Drop embeddings and the outputs of every attention and feed-forward block in training mode (not saved)."""

    def drop(module: nn.Module, _: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> object:
        if isinstance(output, tuple):
            return (nn.functional.dropout(output[0], probability, module.training), *output[1:])
        return nn.functional.dropout(output, probability, module.training)

    model.get_input_embeddings().register_forward_hook(drop)
    for name, block in model.named_modules():
        if name.endswith((".self_attn", ".mlp")):
            block.register_forward_hook(drop)


def load_base(base: str, code_tokens: list[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A base model and its tokenizer, the codes added and the embeddings resized.

    New rows start at the mean of the old ones plus small noise, so that no code is favoured.

    Args:
        base: a local folder, a hub name or `package:NAME` (`models/packaged.py`).
        code_tokens: tokens to add.

    Raises:
        UserError: there is no such model, or its architecture is not supported.
    """
    model, tokenizer = _load_pretrained(base)
    _add_codes(model, tokenizer, code_tokens)
    return model, tokenizer


def load_base_draft(base: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A base model as the draft of a target with `tokenizer`; what its own tokenizer lacks, the codes, is added.

    Raises:
        UserError: as `load_base`, or the base model has other tokens than the target.
    """
    model, own = _load_pretrained(base)
    wanted = tokenizer.get_vocab()
    _add_codes(model, own, sorted(wanted.keys() - own.get_vocab().keys(), key=wanted.__getitem__))
    differing = {token for token, _ in own.get_vocab().items() ^ wanted.items()}
    if differing:
        raise UserError(
            f"draft's base model '{base}': {len(differing)} tokens differ from the target's (one: {min(differing)!r}); "
            "target and draft need base models of one family"
        )
    return model


def _load_pretrained(base: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A base model and its tokenizer, a row of embeddings a token.

    Rows that belong to no token (Qwen2.5 has 271 of them, to round their number up) go: a code that took one would
    start at what was never trained.
    """
    place, options = pretrained_place(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"base model '{base}' cannot be loaded: {' '.join(str(error).split()):.200}") from None
    check_supported(model, base)
    if options:
        model = _unquantised(model)
    if len(tokenizer) < model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def _unquantised(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that can be saved: one that was read from a GGUF file says it is quantised."""
    config = copy.deepcopy(model.config)
    del config.quantization_config
    plain: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    return plain


def _add_codes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, code_tokens: list[str]) -> None:
    add_codes(tokenizer, code_tokens)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    model.config.pad_token_id = tokenizer.pad_token_id


def check_supported(model: PreTrainedModel, name: str | Path) -> None:
    """Refuse an architecture whose attention the tree decoding does not cover."""
    if model.config.model_type not in SUPPORTED:
        raise UserError(
            f"{name}: architecture '{model.config.model_type}' is not supported; use {', '.join(SUPPORTED)}"
        )


def save_model(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    instruction: str,
    extra_files: dict[str, str] | None = None,
) -> None:
    """Write a Hugging Face folder with the prompt's instruction beside it, whole or not at all."""
    with replacing(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / PROMPT_FILE).write_text(json.dumps({"instruction": instruction}) + "\n", encoding="utf-8")
        for name, text in (extra_files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")


def load_model(
    folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A saved model in eval mode.

    Raises:
        UserError: the folder is missing or incomplete, or holds an unsupported architecture.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no usable model there ({' '.join(str(error).split()):.160})") from None
    check_supported(model, folder)
    nn.Module.to(model, device).eval()
    return model


def load_instruction(folder: str | Path) -> str:
    """The instruction that a saved model's prompts start with."""
    try:
        return str(json.loads((Path(folder) / PROMPT_FILE).read_text(encoding="utf-8"))["instruction"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}/{PROMPT_FILE}: cannot be read ({error}); the folder is no model of ours") from None


def load_prompt_encoder(folder: str | Path, catalog: Catalog, *, max_history: int) -> PromptEncoder:
    """The prompt encoder that belongs to a saved model."""
    instruction = load_instruction(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return PromptEncoder.build(tokenizer, catalog, instruction=instruction, max_history=max_history)
