"""What settings meant in a params.yaml that left them out, until every setting had to be named.

Never the value of a setting: only messages name these, so that who lacks a key can add what was in effect, and
`DecodingConfig` reads the params.yaml of a champion that was trained before. A new setting is not added here.
"""

from collections.abc import Sequence
from typing import Any

FORMER_DEFAULTS: dict[str, Any] = {
    "warm_start": {"commit": None},
    "prepare_data": {
        "rating_threshold": None,
        "k_core": 5,
        "duplicates": "first",
        "split": "leave_one_out",
        "max_history": 20,
        "sample": None,
        "seed": 0,
    },
    "build_identifiers": {
        "method": "rq_kmeans",
        "num_levels": 4,
        "codebook_width": 256,
        "embedding_dim": 64,
        "text_weight": 1.0,
        "cooccurrence_weight": 1.0,
        "cooccurrence_window": 5,
        "collisions": "resolve",
        "rebuild_above": 1.15,
        "seed": 0,
    },
    "finetune_target": {
        "architecture": {"dropout": 0.0},
        "codebook_start": False,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "batch_size": 32,
        "max_epochs": 20,
        "patience": 4,
        "selection": "recall",
        "warm": {"max_epochs": 6, "learning_rate": 2.5e-4},
        "deepspeed": {"num_processes": 1, "zero_stage": 2, "precision": "float32"},
        "seed": 0,
    },
    "cache_topk": {
        "top_k": 20,
        "contexts_per_user": 1,
        "rollouts_per_user": 0,
        "rollout_items": 2,
        "batch_size": 64,
        "contexts_per_shard": 1024,
        "compare_users": 64,
        "seed": 0,
    },
    "align_draft": {
        "architecture": {"dropout": 0.0},
        "alpha": 0.5,
        "beta": 1.0,
        "lambda": 0.25,
        "constrained": True,
        "sequences": "top_k",
        "prefix_containment": {"nodes": [40], "margin": 1.0},
        "num_updates": 600,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "warm": {"num_updates": 200, "learning_rate": 2.5e-4},
        "one_shot": {
            "hidden_size": 64,
            "num_layers": 1,
            "num_heads": 2,
            "dropout": 0.0,
            "num_updates": 1500,
            "batch_size": 64,
            "learning_rate": 3e-3,
            "warm": {"num_updates": 500, "learning_rate": 1e-3},
        },
        "seed": 0,
    },
    "evaluate": {
        "ks": [1, 3, 5, 10, 20],
        "verifications": ["strict", "relaxed"],
        "draft_beams": 40,
        "draft_steps": 3,
        "published_users": None,
        "tree_attention": True,
        "exclude_history": True,
        "plan": {"users": 256, "batches": [1, 32], "prompt_percentiles": [50, 95], "repetitions": 5},
        "calls_by_nodes": {"ks": [10, 20], "nodes": [32, 64, 128, 192, 256, 384], "users": 256},
        "sasrec": {"hidden_size": 64, "dropout": 0.2, "max_updates": 1000},
        "temperature": 1.0,
        "batch_size": 32,
        "timing_users": 48,
        "bootstrap_samples": 2000,
        "seed": 0,
    },
    "report": {"title": "AtSpeed nightly"},
}


def former_default(location: Sequence[str]) -> tuple[Any] | None:
    """(value,) of the setting at `location`, such as ("evaluate", "plan", "users"); None: it always had to be named."""
    value: Any = FORMER_DEFAULTS
    for part in location:
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return (value,)
