"""What the item trie costs at catalog scale: time to build, bytes per item, a search step next to a model step."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import accumulate, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from atspeed_core.decoding.device_trie import DeviceTrie
from atspeed_core.decoding.selection import stable_topk
from atspeed_core.device import device_facts
from atspeed_core.identifiers.trie import Trie, build_trie
from atspeed_core.timing import synchronize, time_interleaved

Json = dict[str, Any]

# A code is int(width * u ** skew) with u uniform. Fitted, by level, to the published identifiers of Amazon Beauty:
# 12,023 items with widths (91, 256, 256, 256) give some 91 / 6,900 / 11,100 / 12,000 prefixes, published are
# 91 / 6,539 / 11,172 / 12,023.
SKEWS = (1.5, 3.0, 4.0, 1.0)

ALLOWED_ITEMS = 1000  # of the request whose trie is narrowed to them


@dataclass(frozen=True)
class CatalogShape:
    """A synthetic catalog.

    Attributes:
        num_items: items; a few may share an identifier.
        widths: codes at each level, as many levels as `SKEWS`.
    """

    num_items: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class CatalogSettings:
    """What is measured.

    Attributes:
        catalogs: catalogs of different sizes, all held on the device together.
        model: llama architecture that the trie is compared with; its weights are random.
        prompt_length: tokens in the cache before the model's step.
        ks: beams of a request; the model's step takes as many tokens.
        batches: requests in a batch.
        repetitions: timed runs of each step; the median counts.
        seed: of codes, weights and beams.
    """

    catalogs: tuple[CatalogShape, ...]
    model: LlamaConfig
    prompt_length: int
    ks: tuple[int, ...]
    batches: tuple[int, ...]
    repetitions: int
    seed: int = 0


@dataclass(frozen=True)
class BuiltCatalog:
    """A catalog's trie on the host and on the device, and the seconds that each took to build."""

    shape: CatalogShape
    trie: Trie
    device_trie: DeviceTrie
    trie_seconds: float
    device_seconds: float


@torch.inference_mode()
def measure_catalogs(settings: CatalogSettings, device: torch.device, dtype: torch.dtype) -> Json:
    """Build the catalogs and time their steps alongside the model's; `dtype` is the model's.

    Returns:
        device (see `device_facts`), conditions, catalogs (see `catalog_facts`), and steps: for each catalog, K and
        batch the medians decode_step_us and trie_step_us (at depth 0, 1, ...) in microseconds, and
        largest_share, the costliest trie step / the model's step.
    """
    catalogs = [build(shape, device, settings.seed) for shape in settings.catalogs]
    model = random_model(settings.model, settings.seed)
    torch.nn.Module.to(model, device, dtype)
    steps = [
        step
        for batch, k in product(settings.batches, settings.ks)
        for step in time_steps(catalogs, model, settings, k=k, batch=batch)
    ]
    return {
        "device": device_facts(device, dtype),
        "conditions": {
            "model_parameters": model.num_parameters(),
            "prompt_length": settings.prompt_length,
            "repetitions": settings.repetitions,
            "seed": settings.seed,
            "skews": SKEWS,
        },
        "catalogs": [catalog_facts(catalog, settings) for catalog in catalogs],
        "steps": sorted(steps, key=lambda step: step["num_items"]),
    }


def synthetic_codes(shape: CatalogShape, seed: int) -> NDArray[np.int32]:
    """[items, levels] codes, each an index into all levels' codes, skewed like published identifiers."""
    rng = np.random.default_rng(seed)
    codes = np.empty((shape.num_items, len(shape.widths)), dtype=np.int32)
    first = accumulate(shape.widths[:-1], initial=0)
    for level, (start, width, skew) in enumerate(zip(first, shape.widths, SKEWS, strict=True)):
        codes[:, level] = start + width * rng.random(shape.num_items) ** skew
    return codes


def build(shape: CatalogShape, device: torch.device, seed: int) -> BuiltCatalog:
    """Draw the codes and build both tries."""
    codes = synthetic_codes(shape, seed)
    start = time.perf_counter()
    trie = build_trie(codes)
    on_host = time.perf_counter()
    device_trie = DeviceTrie.build(trie, device)
    synchronize(device)
    return BuiltCatalog(shape, trie, device_trie, on_host - start, time.perf_counter() - on_host)


def catalog_facts(catalog: BuiltCatalog, settings: CatalogSettings) -> Json:
    """Shape of the trie, seconds to build it, bytes per item, and milliseconds to narrow it to a request's items."""
    items = catalog.shape.num_items
    return {
        "num_items": items,
        "widths": catalog.shape.widths,
        "prefixes_by_depth": catalog.trie.prefixes_by_depth(),
        "max_children_by_depth": catalog.device_trie.max_children_at,
        "trie_seconds": catalog.trie_seconds,
        "device_trie_seconds": catalog.device_seconds,
        "bytes_per_item_host": num_bytes(catalog.trie) / items,
        "bytes_per_item_device": num_bytes(catalog.device_trie) / items,
        "allowed_items": ALLOWED_ITEMS,
        "allowed_items_ms": narrowing_milliseconds(catalog, settings),
    }


def num_bytes(arrays: Trie | DeviceTrie) -> int:
    """Size of all arrays of a trie."""
    values = (getattr(arrays, field.name) for field in fields(arrays))
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray | Tensor))


def narrowing_milliseconds(catalog: BuiltCatalog, settings: CatalogSettings) -> float:
    """Median time to narrow a trie to the allowed items of a request."""
    rng = np.random.default_rng(settings.seed)
    items = rng.integers(0, catalog.shape.num_items, ALLOWED_ITEMS)
    device = catalog.device_trie.device

    def narrow() -> None:
        catalog.device_trie.narrowed(catalog.trie.ancestors_of_items(items))

    seconds = time_interleaved([{"": narrow}], device=device, repetitions=settings.repetitions, warmups=1)
    return 1e3 * float(np.median(seconds[""]))


def time_steps(
    catalogs: Sequence[BuiltCatalog], model: LlamaForCausalLM, settings: CatalogSettings, *, k: int, batch: int
) -> Iterator[Json]:
    """Time every catalog's trie steps and the model's step in turn; see `measure_catalogs` for what comes out."""
    rng = np.random.default_rng(settings.seed)
    runs = {"model": decode_step(model, settings.prompt_length, k=k, batch=batch)}
    for catalog, depth in product(catalogs, range(len(SKEWS))):
        step = prepared_trie_step(catalog, rng, depth=depth, k=k, batch=batch)
        runs[f"{catalog.shape.num_items} {depth}"] = step
    seconds = time_interleaved([runs], device=model.device, repetitions=settings.repetitions, warmups=2)
    micros = {name: 1e6 * float(np.median(times)) for name, times in seconds.items()}
    for catalog in catalogs:
        trie_step_us = [micros[f"{catalog.shape.num_items} {depth}"] for depth in range(len(SKEWS))]
        yield {
            "num_items": catalog.shape.num_items,
            "k": k,
            "batch": batch,
            "decode_step_us": micros["model"],
            "trie_step_us": trie_step_us,
            "largest_share": max(trie_step_us) / micros["model"],
        }


def prepared_trie_step(
    catalog: BuiltCatalog, rng: np.random.Generator, *, depth: int, k: int, batch: int
) -> Callable[[], object]:
    """A trie step at `depth` for beams that lead to random items, so that full prefixes come up often."""
    trie = catalog.device_trie
    beams = k if depth else 1
    items = rng.integers(0, catalog.shape.num_items, (batch, beams))
    leaves = torch.from_numpy(catalog.trie.first_leaf + catalog.trie.leaf_of_item[items].astype(np.int64))
    chain = trie.ancestors(leaves.to(trie.device))
    nodes = chain[..., trie.num_levels - depth] if depth else torch.zeros_like(chain[..., 0])
    generator = torch.Generator(trie.device).manual_seed(int(rng.integers(2**31)))
    logits = torch.randn(batch, beams, sum(catalog.shape.widths), generator=generator, device=trie.device)
    return partial(
        trie_step, trie, nodes, torch.zeros(nodes.shape, device=trie.device), logits.log_softmax(-1), depth, k
    )


def trie_step(
    trie: DeviceTrie, nodes: Tensor, scores: Tensor, log_probs: Tensor, depth: int, k: int
) -> tuple[Tensor, Tensor]:
    """The next beams [B, k] and their scores: look up children, gather their log-probabilities, keep the best.

    Args:
        trie: the catalog.
        nodes: [B, K] int64 beams.
        scores: [B, K] float32.
        log_probs: [B, K, codes] float32 of the next code.
        depth: of all `nodes`.
        k: beams to keep; fewer where there are fewer candidates.
    """
    children = trie.children(nodes, depth)
    step = log_probs.gather(-1, trie.codes(children)).masked_fill(children < 0, -torch.inf)
    total = (scores.unsqueeze(-1) + step).flatten(1)
    best, chosen = stable_topk(total, min(k, total.shape[1]))
    return children.flatten(1).gather(1, chosen), best


def random_model(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """A llama with random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.eval()
    return model


def decode_step(model: LlamaForCausalLM, prompt_length: int, *, k: int, batch: int) -> Callable[[], object]:
    """A forward pass of `k` tokens for each request behind a cached prompt, head over the full vocabulary included."""
    cache = DynamicCache()
    tokens = torch.zeros(batch, prompt_length, dtype=torch.long, device=model.device)
    model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def step() -> Tensor:
        logits: Tensor = model(input_ids=tokens[:, :k], past_key_values=cache, use_cache=True).logits
        cache.crop(-k)
        return logits

    return step
