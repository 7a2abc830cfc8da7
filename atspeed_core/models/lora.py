"""Low-rank adaptation of a base model whose new code rows are trained too, and merging it away."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from atspeed_core.models.tokenizer import code_token_ids
from atspeed_core.settings import Lora


def with_lora(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, code_tokens: list[str], lora: Lora, *, seed: int
) -> PeftModel:
    """Adapters on the target modules; of embeddings and head only the codes' rows are trained.

    The codes must be in the tokenizer, and the embeddings resized, before this call.
    """
    rows = code_token_ids(tokenizer, code_tokens)
    trained = {"embed_tokens": rows}
    if not model.config.tie_word_embeddings:
        trained["lm_head"] = rows
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        trainable_token_indices=trained,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The plain model with the adapters merged in; a model without adapters as it is."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model
