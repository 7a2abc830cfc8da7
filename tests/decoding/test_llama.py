"""The lean forward pass equals the model's own modules, for every family; what it does not cover is refused."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.llama import LlamaDecoder
from atspeed_core.decoding.scored_tree import ScoredTree
from atspeed_core.errors import UserError
from tests.tiny_models import make_catalog

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True),
    "llama with long positions": LlamaConfig(**SIZES, rope_parameters=YARN),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
}
CATALOG = make_catalog([(a, b, c) for a in range(3) for b in range(3) for c in range(2)])


def model_of(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prefix", [None, [30, 31, 32]])
@torch.no_grad()
def test_a_tree_in_several_calls_is_scored_as_by_the_models_own_modules(name: str, prefix: list[int] | None) -> None:
    model, trie = model_of(FAMILIES[name]), DeviceTrie.build(CATALOG.trie)
    codes = torch.arange(len(CATALOG.code_tokens)) + 2
    prompts = torch.tensor([[0, 0, 0, 30, 31, 32, 5, 6], [30, 31, 32, 7, 2, 3, 4, 9]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])
    calls = [torch.tensor([[1, 4, -1], [2, 3, 8]]), torch.tensor([[2, 7], [9, 1]]), torch.tensor([[6], [-1]])]
    plain = ScoredTree(CodeModel(model, codes), trie, prompts, mask)
    for call in calls:
        plain.score_new(call)
    lean = ScoredTree(CodeModel(model, codes, LlamaDecoder.of(model, name, prefix=prefix)), trie, prompts, mask)
    for call in calls:
        lean.score_new(call)
    used = lean.nodes >= 0
    torch.testing.assert_close(lean.log_probs[used], plain.log_probs[used], atol=1e-4, rtol=1e-4)
    lean.select(torch.tensor([1]))
    lean.score_new(torch.tensor([[5]]))
    plain.score_new(torch.tensor([[-1], [5]]))
    torch.testing.assert_close(lean.log_probs[0, -1], plain.log_probs[1, -1], atol=1e-4, rtol=1e-4)


def test_weights_are_shared_with_the_model() -> None:
    model = model_of(FAMILIES["qwen2"])
    decoder = LlamaDecoder.of(model, "here")
    attention = model.base_model.layers[0].self_attn
    decoder._layers[0].key_value[0, 0] = 7.0
    assert attention.k_proj.weight[0, 0] == 7.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=40), "'gpt2' is not supported; use llama"),
        (MistralConfig(**SIZES, sliding_window=16), "sliding-window"),
        (LlamaConfig(**SIZES, hidden_act="gelu"), "'gelu' is not supported"),
        (LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), "'dynamic'"),
        (LlamaConfig(**SIZES, mlp_bias=True), "a trial of the decoding engine differs"),
    ],
)
def test_what_is_not_covered_is_refused_by_name(config: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LlamaDecoder.of(model_of(config), "here")
