"""Text embeddings from a sentence encoder in a local folder (Hugging Face layout), by mean pooling."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atspeed_core.errors import UserError

BATCH_SIZE = 64


def encode_sentences(texts: Sequence[str], folder: str) -> NDArray[np.float32]:
    """Encode texts as the mean of the encoder's last hidden states over the tokens that are no padding.

    Texts are cut at the tokenizer's maximal length. An empty text becomes zeros.

    Args:
        texts: any strings.
        folder: a model and its tokenizer as `save_pretrained` writes them, e.g. a sentence-transformers folder.

    Returns:
        [texts, hidden size] float32, not normalised.

    Raises:
        UserError: `folder` is no folder that transformers can load a model and a tokenizer from.
    """
    import torch  # slow to import, and this path is taken by few runs

    model, tokenizer = _load(folder)
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(texts), BATCH_SIZE):
            batch = tokenizer(
                list(texts[start : start + BATCH_SIZE]),
                padding=True,
                truncation=True,
                max_length=limit,
                return_tensors="pt",
            )
            states = model(**batch).last_hidden_state  # [texts, tokens, hidden]
            mask = batch["attention_mask"].unsqueeze(-1)
            vectors[start : start + BATCH_SIZE] = ((states * mask).sum(1) / mask.sum(1)).float().numpy()
    vectors[[not text.strip() for text in texts]] = 0
    return vectors


def _load(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    if not Path(folder).is_dir():
        raise UserError(f"build_identifiers.sentence_encoder: '{folder}' is no folder; give a local model folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return AutoModel.from_pretrained(folder, local_files_only=True).eval(), tokenizer
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"build_identifiers.sentence_encoder: cannot load a model from '{folder}': {reason}") from None
