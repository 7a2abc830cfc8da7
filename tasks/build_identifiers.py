"""Stage build_identifiers: items become tuples of code tokens."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray
from safetensors.numpy import save as to_bytes

from atspeed_core.data.sequences import load_items, load_train
from atspeed_core.errors import UserError
from atspeed_core.files import replacing, write_json
from atspeed_core.identifiers.build import Identifiers, build_identifiers
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.identifiers.extend import load_earlier
from atspeed_core.settings import Params
from tasks.paths import CHAMPION, IDENTIFIERS, PROCESSED
from tasks.stage import ParamsPath, Run, stage

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(params: ParamsPath = Path("params.yaml")) -> None:
    """Give every item an identifier and write data/identifiers/; the champion's items keep theirs where that serves."""
    with stage("build_identifiers", params) as run:
        sequences = list(load_train(PROCESSED).values())
        earlier = load_earlier(CHAMPION / "identifiers")
        made = build_identifiers(load_items(PROCESSED), sequences, run.params.build_identifiers, earlier)
        check_list_lengths(made.catalog, run.params)
        save(made, IDENTIFIERS)
        record(made.report, run)


def check_list_lengths(catalog: Catalog, params: Params) -> None:
    """Refuse lists longer than the catalog here, before any training."""
    lengths = {"evaluate.ks": max(params.evaluate.ks, default=0), "cache_topk.top_k": params.cache_topk.top_k}
    for name, length in lengths.items():
        if length > catalog.trie.num_leaves:
            most = catalog.trie.num_leaves
            raise UserError(f"{name}: K = {length} is larger than the catalog of {most} identifiers; lower it")


def save(made: Identifiers, folder: Path) -> None:
    """Write identifiers.json, codebooks.safetensors (no tensor in it for a given file) and report.json."""
    made.catalog.save(folder / "identifiers.json")
    with replacing(folder / "codebooks.safetensors") as temporary:
        temporary.write_bytes(to_bytes(_tensors(made.codebooks)))  # save_file would make a file for its owner alone
    write_json(folder / "report.json", made.report)


def record(report: dict[str, Any], run: Run) -> None:
    """Tell the log and MLflow what the identifiers look like."""
    run.log_param("num_items", report["num_items"])
    for name in ("kept", "new", "rebuilt"):
        run.metric(f"identifiers_{name}", report[name])
    for name in ("error_kept", "error_fresh"):
        if report[name] is not None:
            run.metric(name, report[name])
    run.log_param("identifiers_reason", report["reason"])
    run.metric("collisions_before", report["collisions"]["items_before"])
    run.metric("collisions_after", report["collisions"]["items_after"])
    for depth, prefixes in enumerate(report["prefixes_by_depth"], start=1):
        run.metric("prefixes", prefixes, step=depth)
    for use in report["codebook_use"]:
        run.metric("codebook_perplexity", use["perplexity"], step=use["level"])
    for level, error in enumerate(report["quantization_error"] or [], start=1):
        run.metric("quantization_error", error, step=level)
    run.artifact(IDENTIFIERS / "report.json")
    log.info("%d items, prefixes by depth %s", report["num_items"], report["prefixes_by_depth"])
    log.info("identifiers: %(kept)d kept, %(new)d new, rebuilt: %(rebuilt)s (%(reason)s)", report)
    log.info("codes used by level %s", [use["used"] for use in report["codebook_use"]])
    log.info("collisions: %(items_before)d items before, %(items_after)d after", report["collisions"])


def _tensors(codebooks: NDArray[np.float32] | None) -> dict[str, NDArray[np.float32]]:
    if codebooks is None:
        return {}
    return {f"codebook_{level}": np.ascontiguousarray(book) for level, book in enumerate(codebooks, start=1)}


if __name__ == "__main__":
    app()
