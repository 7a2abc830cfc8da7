"""Benchmark of decoding: seven ways side by side, by K, batch, prompt length and target. No stage of the pipeline."""

from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import torch
import typer

from atspeed_core.benchmark.measure_peers import BenchmarkSettings, Grid, Histories, PromptKind, measure_peers, nearest
from atspeed_core.benchmark.numerics import compare_formats
from atspeed_core.benchmark.peers import PEERS
from atspeed_core.benchmark.results_page import benchmark_markdown, numerics_table, peer_tables, summary_table
from atspeed_core.benchmark.targets import OWN, SMOLLM2, SMOLLM2_PACKAGE, TARGETS
from atspeed_core.data.sequences import load_full_examples
from atspeed_core.device import device_facts
from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from atspeed_core.models.packaged import READER
from atspeed_core.recommender import Recommender
from atspeed_core.settings import Params, load_params
from tasks.bench_catalog import chosen_device
from tasks.paths import DRAFTS, IDENTIFIERS, PROCESSED, RESULTS, TARGET
from tasks.record import surroundings
from tasks.report import show, write_text
from tasks.stage import exit_codes, set_up_logging

Json = dict[str, Any]

KS, BATCHES = (1, 3, 5, 10, 20, 50), (1, 4, 16, 32)
PROMPTS: tuple[PromptKind, ...] = get_args(PromptKind)
NUMERICS_K = 10
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", SMOLLM2_PACKAGE, READER)

ON_A_CPU = BenchmarkSettings(
    grids=(Grid((OWN, SMOLLM2), PROMPTS, BATCHES, KS),),
    cell_seconds=40,
    longest_seconds=20,
    most_requests=48,
    least_requests=8,
    plan_users=128,
    plan_repetitions=3,
)
ON_CUDA = replace(ON_A_CPU, grids=(Grid(TARGETS, PROMPTS, BATCHES, KS),), cell_seconds=20)
QUICK = replace(
    ON_A_CPU,
    grids=(Grid((OWN,), PROMPTS, (1, 4), (10,)), Grid((SMOLLM2,), ("short",), (1,), (10,))),
    cell_seconds=3,
    longest_seconds=5,
    most_requests=12,
    least_requests=2,
    plan_users=32,
    plan_repetitions=1,
)
NUMERICS_REQUESTS, NUMERICS_REQUESTS_QUICK = 64, 8

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(  # noqa: PLR0913 - one parameter per option of the command
    folder: Annotated[Path, typer.Option(help="Folder of a project whose pipeline has run.")] = Path(),
    method: Annotated[
        str, typer.Option(help="The method whose draft, models/drafts/METHOD, is measured.")
    ] = "atspeed_s",
    target: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(TARGETS)}; repeat for more.")] = None,
    k: Annotated[list[int] | None, typer.Option("--k", min=1, help="List length; repeat for more.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Requests in a batch; repeat for more.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="short or long; repeat for both.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few cells and few requests: minutes on two cores.")] = False,
    longest: Annotated[float | None, typer.Option(help="Seconds; a row is skipped if a run takes longer.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda; default: cuda if there is one.")] = "",
    name: Annotated[str, typer.Option(help="Name of the files; default: the device, with -quick.")] = "",
) -> None:
    """Write results/bench/NAME.json and NAME.md, and print the tables."""
    set_up_logging("bench")
    with exit_codes():
        place = chosen_device(device)
        settings = QUICK if quick else ON_CUDA if place.type == "cuda" else ON_A_CPU
        settings = replace(settings, longest_seconds=longest or settings.longest_seconds)
        settings = restricted(settings, target, k, batch, prompt)
        result = bench(folder, method, place, settings, NUMERICS_REQUESTS_QUICK if quick else NUMERICS_REQUESTS)
        path = RESULTS / "bench" / (name or f"{place.type}{'-quick' if quick else ''}")
        write_json(path.with_suffix(".json"), result)
        write_text(path.with_suffix(".md"), benchmark_markdown(result))
        show([summary_table(result), *peer_tables(result), numerics_table(result)])


def restricted(
    settings: BenchmarkSettings,
    targets: list[str] | None,
    ks: list[int] | None,
    batches: list[int] | None,
    prompts: list[str] | None,
) -> BenchmarkSettings:
    """The settings with the cells that a user named in place of the usual ones.

    Raises:
        UserError: there is no such target or kind of prompt.
    """
    for option, given, known in (("target", targets, TARGETS), ("prompt", prompts, PROMPTS)):
        for value in given or []:
            if value not in known:
                raise UserError(f"--{option} {value}: unknown; use {', '.join(known)}")
    if targets:
        grids: tuple[Grid, ...] = (replace(settings.grids[0], targets=tuple(dict.fromkeys(targets))),)
    else:
        grids = settings.grids
    chosen = {"ks": ks, "batches": batches, "prompts": cast("list[PromptKind] | None", prompts)}
    changes: dict[str, Any] = {field: tuple(dict.fromkeys(given)) for field, given in chosen.items() if given}
    return replace(settings, grids=tuple(replace(grid, **changes) for grid in grids))


def bench(folder: Path, method: str, device: torch.device, settings: BenchmarkSettings, numerics_requests: int) -> Json:
    """Measure the trained pair of a project's folder; returns the content of the results file.

    Raises:
        UserError: the folder's pipeline has not run, or one of its files is damaged.
    """
    for needed in (Path("params.yaml"), TARGET, DRAFTS / method, IDENTIFIERS / "identifiers.json", PROCESSED):
        if not (folder / needed).exists():
            raise UserError(
                f"{folder / needed}: does not exist; run `make run` first, or name another folder with --folder"
            )
    params = load_params(folder / "params.yaml")
    load = partial(load_pair, folder, method, params, device)
    trained = load(None)
    test, valid = (histories(folder, part, trained) for part in ("test", "valid"))
    requests = nearest(trained, test, trained.encoder.max_history, numerics_requests, settings.seed)
    surrounding = surroundings()
    return {
        "device": device_facts(trained.device, trained.dtype),
        "versions": {package: installed(package) for package in PACKAGES},
        "git_commit": surrounding["git_commit"],
        "git_changed": surrounding["git_changed"],
        "conditions": {
            "dataset": params.prepare_data.dataset,
            "method": method,
            "draft_parameters": trained.draft_parameters,
            "items": len(trained.catalog.items),
            "prefixes_by_depth": trained.catalog.trie.prefixes_by_depth(),
            "max_history": trained.encoder.max_history,
            "exclude_history": trained.decoding.exclude_history,
            "cell_seconds": settings.cell_seconds,
            "longest_seconds": settings.longest_seconds,
            "plan_users": settings.plan_users,
            "plan_repetitions": settings.plan_repetitions,
            "seed": settings.seed,
            "walltime_speedup": "time of none / time of the row, median over requests, interleaved in one process",
            "latency": "of a whole batch, from item ids to item ids",
        },
        "peers": PEERS,
        **measure_peers(trained, test, valid, settings),
        "numerics": compare_formats(load, requests, min(NUMERICS_K, trained.catalog.trie.num_leaves)),
    }


def load_pair(
    folder: Path, method: str, params: Params, device: torch.device, dtype: torch.dtype | None
) -> Recommender:
    """Target and draft of a project's folder, decoding as its `params.yaml` specifies."""
    return Recommender.load(
        folder / TARGET,
        folder / DRAFTS / method,
        folder / IDENTIFIERS / "identifiers.json",
        device=device,
        dtype=dtype,
        decoding=params.decoding(),
    )


def histories(folder: Path, part: str, recommender: Recommender) -> Histories:
    """The histories of a part's users that contain a known item."""
    known = recommender.catalog.position
    examples = load_full_examples(folder / PROCESSED, part)
    return [example.history for example in examples if any(item in known for item in example.history)]


def installed(package: str) -> str | None:
    """Version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    app()
