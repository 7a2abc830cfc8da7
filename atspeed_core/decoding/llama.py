"""A lean forward pass of llama-like decoders for tree decoding, on the weights of a loaded Hugging Face model.

What it saves against the model's own modules: one product for queries, keys and values and one for gate and up, keys
and values written into slots of a cache that was allocated once, no work in the last layer for tokens whose hidden
state nobody needs, and a fixed prompt prefix computed once for good. The weights are shared with the model, and a trial
run against the model's own modules decides at load time whether the pass fits the architecture.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from atspeed_core.errors import UserError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROTARY_KINDS = ("default", "linear", "llama3", "yarn")  # rotary tables that no request's length changes
TRIAL_TOKENS = 12
TRIAL_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of the largest hidden value


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer; the biases and the norms of queries and keys may be absent."""

    input_norm: Tensor
    query: Tensor
    query_bias: Tensor | None
    key_value: Tensor
    key_value_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of the attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    epsilon: float


class LlamaDecoder:
    """The decoder layers of one model; make one with `LlamaDecoder.of`."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take over the weights of `model`, which must be one of `FAMILIES`."""
        config = model.config
        base: Any = model.base_model
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self._shape = Shape(heads, config.num_key_value_heads, head_dim, config.rms_norm_eps)
        self._embedding: Tensor = base.embed_tokens.weight
        self._norm: Tensor = base.norm.weight
        self._layers = [_layer(layer) for layer in base.layers]
        self._rotary: nn.Module = base.rotary_emb
        self._prefix: Cache | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, name: str, *, prefix: list[int] | None = None) -> "LlamaDecoder":
        """A decoder for `model`, tried against the model's own modules; `prefix` starts every prompt.

        Raises:
            UserError: the architecture is not covered, or the trial's results differ.
        """
        check_supported(model, name)
        decoder = cls(model)
        decoder._try(model, name)
        if prefix and len(prefix) > 1:
            decoder._prefix = decoder._computed(torch.tensor([prefix], device=decoder.device))
        return decoder

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of weights and hidden states."""
        return self._embedding.dtype

    @property
    def prefix_length(self) -> int:
        """Tokens of the prefix that was computed once."""
        return self._prefix.length if self._prefix is not None else 0

    def session(self, batch: int, capacity: int) -> "DecoderSession":
        """An empty session, the prefix in its cache."""
        cache = self._cache(batch, self.prefix_length + capacity)
        return DecoderSession(self, cache.starting_with(self._prefix) if self._prefix is not None else cache)

    def forward(self, tokens: Tensor, positions: Tensor, visible: Tensor, cache: "Cache", *, keep_from: int) -> Tensor:
        """[B, T - keep_from, hidden] final hidden states of `tokens` [B, T]; see `code_model.Session.extend`.

        The last T slots in use of `cache` are theirs, and are written.
        """
        hidden = functional.embedding(tokens, self._embedding)
        cos, sin = (part.unsqueeze(1) for part in self._rotary(hidden, positions))  # [B, 1, T, head_dim]
        mask = torch.zeros(visible.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill_(~visible, torch.finfo(hidden.dtype).min).unsqueeze(1)
        start = cache.length - tokens.shape[1]
        for number, layer in enumerate(self._layers):
            first = keep_from if number == len(self._layers) - 1 else 0
            hidden = self._attend(layer, hidden, (cos, sin), mask, cache.layers[number], start, first)
            hidden = self._feed_forward(layer, hidden)
        return self._normed(hidden, self._norm)

    def _attend(
        self,
        layer: Layer,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor,
        key_values: Tensor,
        start: int,
        first: int,
    ) -> Tensor:
        """Attention of the tokens from `first` on, whose keys and values go into the slots from `start` on."""
        shape, (cos, sin) = self._shape, rotation
        batch, length, _ = hidden.shape
        normed = self._normed(hidden, layer.input_norm)
        both = functional.linear(normed, layer.key_value, layer.key_value_bias)
        keys, values = both.view(batch, length, 2, shape.num_kv_heads, shape.head_dim).permute(2, 0, 3, 1, 4)
        queries = functional.linear(normed[:, first:], layer.query, layer.query_bias)
        queries = queries.view(batch, length - first, shape.num_heads, shape.head_dim).transpose(1, 2)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = self._normed(queries, layer.query_norm), self._normed(keys, layer.key_norm)
        key_values[0, :, :, start : start + length] = _rotated(keys, cos, sin)
        key_values[1, :, :, start : start + length] = values
        mixed = functional.scaled_dot_product_attention(
            _rotated(queries, cos[:, :, first:], sin[:, :, first:]),
            key_values[0, :, :, : start + length],
            key_values[1, :, :, : start + length],
            attn_mask=mask[:, :, first:],
            enable_gqa=shape.num_heads != shape.num_kv_heads,
        )
        mixed = mixed.transpose(1, 2).reshape(batch, length - first, -1)
        return hidden[:, first:] + functional.linear(mixed, layer.output, layer.output_bias)

    def _feed_forward(self, layer: Layer, hidden: Tensor) -> Tensor:
        gate, up = functional.linear(self._normed(hidden, layer.post_norm), layer.gate_up).chunk(2, dim=-1)
        return hidden + functional.linear(functional.silu(gate) * up, layer.down)

    def _normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self._shape.epsilon)

    def _cache(self, batch: int, capacity: int) -> "Cache":
        shape = (2, batch, self._shape.num_kv_heads, capacity, self._shape.head_dim)
        options: Any = {"dtype": self.dtype, "device": self.device}
        return Cache([torch.empty(shape, **options) for _ in self._layers], 0)

    @torch.inference_mode()
    def _computed(self, tokens: Tensor) -> "Cache":
        """The cache after `tokens` [1, T]."""
        length = tokens.shape[1]
        cache = self._cache(1, length).grown(length)
        visible = torch.ones(1, length, length, dtype=torch.bool, device=self.device).tril()
        positions = torch.arange(length, device=self.device).unsqueeze(0)
        self.forward(tokens, positions, visible, cache, keep_from=length - 1)
        return cache

    @torch.inference_mode()
    def _try(self, model: PreTrainedModel, name: str) -> None:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(len(self._embedding), (1, TRIAL_TOKENS), generator=generator).to(self.device)
        expected = model.base_model(input_ids=tokens).last_hidden_state
        visible = torch.ones(1, TRIAL_TOKENS, TRIAL_TOKENS, dtype=torch.bool, device=self.device).tril()
        positions = torch.arange(TRIAL_TOKENS, device=self.device).unsqueeze(0)
        cache = self._cache(1, TRIAL_TOKENS).grown(TRIAL_TOKENS)
        found = self.forward(tokens, positions, visible, cache, keep_from=0)
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error <= TRIAL_TOLERANCE[self.dtype]:
            raise UserError(
                f"{name}: a trial of the decoding engine differs from the model by {error:.1e}; this architecture is "
                f"not covered ({model.config.model_type}, {model.config.architectures}); use a plain llama, mistral, "
                "qwen2 or qwen3 model"
            )


@dataclass(frozen=True)
class Cache:
    """Keys and values of a batch of requests.

    Attributes:
        layers: for each layer [2, B, kv heads, capacity, head dim], keys first.
        length: slots in use, the same for all requests.
    """

    layers: list[Tensor]
    length: int

    def grown(self, count: int) -> "Cache":
        """The same slots and `count` more in use; what was allocated is doubled where it does not reach."""
        length, capacity = self.length + count, self.layers[0].shape[3]
        if length <= capacity:
            return Cache(self.layers, length)
        extra = max(length - capacity, capacity)
        return Cache([functional.pad(layer, (0, 0, 0, extra)) for layer in self.layers], length)

    def starting_with(self, prefix: "Cache") -> "Cache":
        """This cache, empty so far, after the one request of `prefix`, the same for every request."""
        for ours, theirs in zip(self.layers, prefix.layers, strict=True):
            ours[:, :, :, : prefix.length] = theirs[:, :, :, : prefix.length]
        return Cache(self.layers, prefix.length)

    def select(self, rows: Tensor) -> "Cache":
        """Only the requests `rows`."""
        return Cache([layer.index_select(1, rows) for layer in self.layers], self.length)


class DecoderSession:
    """See `code_model.Session`; runs a `LlamaDecoder`. A shallow copy goes its own way from where it was made."""

    def __init__(self, decoder: LlamaDecoder, cache: Cache) -> None:
        """Go on after what `cache` holds."""
        self._decoder, self._cache = decoder, cache

    @property
    def prefix_length(self) -> int:
        """See `Session`."""
        return self._decoder.prefix_length

    def extend(self, tokens: Tensor, positions: Tensor, visible: Tensor, *, keep_from: int) -> Tensor:
        """See `Session`."""
        self._cache = self._cache.grown(tokens.shape[1])
        return self._decoder.forward(tokens, positions, visible, self._cache, keep_from=keep_from)

    def select(self, rows: Tensor) -> None:
        """See `Session`."""
        self._cache = self._cache.select(rows)


def check_supported(model: PreTrainedModel, name: str) -> None:
    """Refuse an architecture that tree decoding does not cover.

    Raises:
        UserError: another family, windowed attention, another activation or positions that depend on the length.
    """
    config = model.config
    if config.model_type not in FAMILIES:
        raise UserError(f"{name}: architecture '{config.model_type}' is not supported; use {', '.join(FAMILIES)}")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "use_sliding_window", config.model_type == "mistral") and config.sliding_window
    if windowed or len(kinds) > 1:
        raise UserError(f"{name}: sliding-window attention is not supported; set sliding_window to null in its config")
    if config.hidden_act != "silu":
        raise UserError(f"{name}: activation '{config.hidden_act}' is not supported; use a model with silu")
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in ROTARY_KINDS:
        raise UserError(f"{name}: rotary positions '{kind}' are not supported; use {', '.join(ROTARY_KINDS)}")


def _layer(module: Any) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    key_value, key_value_bias = _fused(attention.k_proj, attention.v_proj)
    gate_up, _ = _fused(mlp.gate_proj, mlp.up_proj)
    return Layer(
        input_norm=module.input_layernorm.weight,
        query=attention.q_proj.weight,
        query_bias=attention.q_proj.bias,
        key_value=key_value,
        key_value_bias=key_value_bias,
        query_norm=_weight(attention, "q_norm"),
        key_norm=_weight(attention, "k_norm"),
        output=attention.o_proj.weight,
        output_bias=attention.o_proj.bias,
        post_norm=module.post_attention_layernorm.weight,
        gate_up=gate_up,
        down=mlp.down_proj.weight,
    )


def _fused(first: nn.Linear, second: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Both weights, and both biases, as one; the modules go on as views of it, so nothing is stored twice."""
    fused: list[Tensor | None] = []
    for name in ("weight", "bias"):
        parts = [getattr(first, name), getattr(second, name)]
        if parts[0] is None:
            fused.append(None)
            continue
        both = torch.cat([part.detach() for part in parts])
        for part, view in zip(parts, both.split([len(part) for part in parts]), strict=True):
            part.data = view
        fused.append(both)
    weight, bias = fused
    assert weight is not None
    return weight, bias


def _weight(module: nn.Module, name: str) -> Tensor | None:
    norm = getattr(module, name, None)
    return norm.weight if norm is not None else None


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of `states` [B, heads, T, head_dim] (RoFormer, arXiv 2104.09864, half-split form)."""
    half = states.shape[-1] // 2
    turned = torch.cat([-states[..., half:], states[..., :half]], dim=-1)
    return states * cos + turned * sin
