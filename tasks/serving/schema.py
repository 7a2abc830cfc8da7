"""Signatures and input examples of the registered models."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atspeed_core.data.sequences import Example
from atspeed_core.files import read_json, write_json
from atspeed_core.identifiers.catalog import Catalog
from tasks.paths import IDENTIFIERS

if TYPE_CHECKING:  # importing MLflow takes seconds
    import pandas as pd
    from mlflow.models import ModelSignature

MODEL_FILE = Path(__file__).with_name("recommender_model.py")
EXAMPLE_FILE = "input_example.json"
EXAMPLES = 2
DEFAULTS: dict[str, Any] = {"k": 10, "verification": "strict", "allowed_items": []}  # params of a request; []: all


def recommender_signature() -> "ModelSignature":
    """Input: histories. Output: items, scores, accepted_steps, target_calls. Params: k, verification, allowed_items."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    lists = Schema(
        [
            ColSpec(Array(DataType.string), "items"),
            ColSpec(Array(DataType.double), "scores"),
            ColSpec(DataType.long, "accepted_steps"),
            ColSpec(DataType.long, "target_calls"),
        ]
    )
    params = [
        ParamSpec("k", DataType.long, DEFAULTS["k"]),
        ParamSpec("verification", DataType.string, DEFAULTS["verification"]),
        ParamSpec("allowed_items", DataType.string, DEFAULTS["allowed_items"], shape=(-1,)),
    ]
    history = Schema([ColSpec(Array(DataType.string), "history")])
    return ModelSignature(inputs=history, outputs=lists, params=ParamSchema(params))


def recommender_example(examples: Sequence[Example], catalog: Catalog) -> "tuple[pd.DataFrame, dict[str, Any]]":
    """Histories of some test users, and the params of a request."""
    import pandas as pd

    histories = [known for example in examples if (known := catalog.known_items(example.history))][:EXAMPLES]
    k = min(DEFAULTS["k"], catalog.trie.num_leaves)
    return pd.DataFrame({"history": histories}), {**DEFAULTS, "k": k}


def weights_signature(folder: Path) -> "ModelSignature":
    """The signature of a target or draft in `folder`: tokens to logits, or items to scores where it reads items."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from atspeed_core.drafters import drafter_in

    config = read_json(folder / "config.json")
    tokens, scores = np.dtype(np.int64), np.dtype(np.float32)
    if drafter_in(folder).reads_items:
        items = Schema([TensorSpec(tokens, (-1, -1), "items")])
        return ModelSignature(items, Schema([TensorSpec(scores, (-1, config.get("num_units", -1)), "scores")]))
    vocabulary = config["vocab_size"]
    prompt = Schema([TensorSpec(tokens, (-1, -1), name) for name in ("input_ids", "attention_mask")])
    return ModelSignature(prompt, Schema([TensorSpec(scores, (-1, -1, vocabulary), "logits")]))


def weights_example(folder: Path, history: list[str], max_history: int) -> dict[str, list[list[int]]]:
    """The input of a target or draft in `folder` for `history`: the prompt, or the items where it reads items."""
    from atspeed_core.drafters import drafter_in
    from atspeed_core.models.building import load_prompt_encoder
    from atspeed_core.models.one_shot_draft import padded_items

    catalog = Catalog.load(IDENTIFIERS / "identifiers.json")
    if drafter_in(folder).reads_items:
        return {"items": padded_items([catalog.positions_of(history)], max_history=max_history).tolist()}
    encoder = load_prompt_encoder(folder, catalog, max_history=max_history)
    ids, mask = encoder.encode([history])
    return {"input_ids": ids.tolist(), "attention_mask": mask.tolist()}


def save_example(example: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write an input example into a model's folder; returns its entry in MLmodel."""
    write_json(folder / EXAMPLE_FILE, example)
    return {"artifact_path": EXAMPLE_FILE, "type": "json_object"}
