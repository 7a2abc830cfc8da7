"""Benchmark of the item trie with 10 thousand, 1 million and 10 million items. No stage of the pipeline."""

from dataclasses import replace
from typing import Annotated, Any

import torch
import typer
from transformers import LlamaConfig

from atspeed_core.errors import UserError
from atspeed_core.evaluation.catalog_scale import CatalogSettings, CatalogShape, measure_catalogs
from atspeed_core.files import write_json
from atspeed_core.reporting.text_table import TextTable, describe_device
from tasks.paths import RESULTS
from tasks.report import show
from tasks.stage import exit_codes, set_up_logging

Json = dict[str, Any]

# The shape of SmolLM-135M with 1,024 codes added to its vocabulary.
MODEL = LlamaConfig(
    vocab_size=49152 + 1024,
    hidden_size=576,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    intermediate_size=1536,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
)
FULL = CatalogSettings(
    catalogs=(
        CatalogShape(10_000, (91, 256, 256, 256)),
        CatalogShape(1_000_000, (256, 256, 256, 256)),
        CatalogShape(10_000_000, (1024, 1024, 1024, 1024)),
    ),
    model=MODEL,
    prompt_length=100,
    ks=(10, 50),
    batches=(1, 32),
    repetitions=9,
)
QUICK = replace(FULL, catalogs=FULL.catalogs[:2], batches=(1,), repetitions=3)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    quick: Annotated[bool, typer.Option("--quick", help="Up to 1 million items, batch 1, few repetitions.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; default: cuda if there is one.")] = "",
) -> None:
    """Write results/bench/catalog-DEVICE.json and print the tables."""
    set_up_logging("bench_catalog")
    with exit_codes():
        place = chosen_device(device)
        dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
        result = measure_catalogs(QUICK if quick else FULL, place, dtype)
        name = f"catalog-{place.type}-quick" if quick else f"catalog-{place.type}"
        write_json(RESULTS / "bench" / f"{name}.json", result)
        show([catalog_table(result), step_table(result)])


def chosen_device(name: str) -> torch.device:
    """The device called `name`; default: CUDA if there is a device, otherwise the CPU.

    Raises:
        UserError: there is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: unknown; use cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no CUDA device here; use cpu")
    return torch.device(name)


def catalog_table(result: Json) -> TextTable:
    """Time to build and size of each catalog's trie."""
    rows = [
        [
            f"{facts['num_items']:,}",
            " / ".join(map(str, facts["widths"])),
            " / ".join(f"{n:,}" for n in facts["prefixes_by_depth"]),
            " / ".join(map(str, facts["max_children_by_depth"])),
            f"{facts['trie_seconds']:.2f} + {facts['device_trie_seconds']:.2f}",
            f"{facts['bytes_per_item_device']:.1f}",
            f"{facts['bytes_per_item_host']:.1f}",
            f"{facts['allowed_items_ms']:.2f}",
        ]
        for facts in result["catalogs"]
    ]
    allowed = result["catalogs"][0]["allowed_items"]
    note = (
        f"Synthetic codes, skewed like published ones. Narrow: restriction to {allowed:,} allowed items of a request."
    )
    columns = ["items", "codes per level", "prefixes by depth", "most children by depth"]
    columns += ["build s, host + device", "device B/item", "host B/item", "narrow ms"]
    return TextTable("How large may the catalog be?", note, columns, rows)


def step_table(result: Json) -> TextTable:
    """Time of a trie step compared with a step of the model."""
    rows = [
        [
            f"{step['num_items']:,}",
            str(step["batch"]),
            str(step["k"]),
            *(f"{micros:,.0f}" for micros in step["trie_step_us"]),
            f"{step['decode_step_us']:,.0f}",
            f"{step['largest_share']:.2%}",
        ]
        for step in result["steps"]
    ]
    conditions = result["conditions"]
    note = (
        f"Medians of {conditions['repetitions']} interleaved runs, microseconds. Model: K tokens per request after "
        f"a prompt of {conditions['prompt_length']}, {conditions['model_parameters'] / 1e6:.0f} M parameters, "
        f"transformers, eager. {describe_device(result['device'])}"
    )
    depths = range(len(result["steps"][0]["trie_step_us"]))
    columns = ["items", "batch", "K", *(f"depth {depth}" for depth in depths), "model step", "largest share"]
    return TextTable("What does a trie step cost?", note, columns, rows)


if __name__ == "__main__":
    app()
