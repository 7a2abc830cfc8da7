"""The benchmark's tables: the speedup of ours in every cell, the peers side by side, and every figure."""

from collections.abc import Iterable
from typing import Any

from atspeed_core.benchmark.peers import BASELINE, GENERATE, OURS, PEERS
from atspeed_core.reporting.text_table import NOTHING, TextTable, describe_device, markdown

Json = dict[str, Any]


def benchmark_markdown(result: Json) -> str:
    """The whole result as a Markdown page."""
    head = ["# Benchmark", "", f"- Device: {describe_device(result['device'])}"]
    head += [f"- Target {name}: {describe_target(facts)}" for name, facts in result["targets"].items()]
    head += [f"- Prompts, {name}: {facts['mean_tokens']:.0f} tokens on average" for name, facts in prompts(result)]
    head += [f"- Data set: {result['conditions']['dataset']}; draft: {result['conditions']['method']}"]
    head += ["- Row names:", *(f"    - `{name}`: {meaning}" for name, meaning in PEERS.items())]
    tables = [summary_table(result), *peer_tables(result), numerics_table(result), *detail_tables(result)]
    return "\n".join([*head, *(markdown(table) for table in tables if table.rows)]) + "\n"


def summary_table(result: Json) -> TextTable:
    """WS of our engine at every K."""
    ks = _values(result["rows"], "k")
    ours = {_place(row): row for row in result["rows"] if row["peer"] == OURS}
    rows = [
        [target, prompt, str(batch), *(_summary(ours.get((target, prompt, batch, k))) for k in ks)]
        for target, prompt, batch in dict.fromkeys(place[:3] for place in ours)
    ]
    note = (
        "WS: time of our engine without speculation over the time of ours, median over requests, interleaved in one "
        "run. In brackets: share of the oracle's WS (a draft that knows the answer and costs nothing); WS over "
        f"transformers generate with a callback. {NOTHING}: not measured; the reason is in the JSON file."
    )
    return TextTable("How much faster is ours?", note, ["target", "prompt", "batch", *(f"K = {k}" for k in ks)], rows)


def peer_tables(result: Json) -> Iterable[TextTable]:
    """Median latency and WS of all peers: one table per target and kind of prompt."""
    ks = _values(result["rows"], "k")
    for target, prompt in dict.fromkeys((row["target"], row["prompt"]) for row in result["rows"]):
        here = [row for row in result["rows"] if (row["target"], row["prompt"]) == (target, prompt)]
        cells = {(row["batch"], row["peer"], row["k"]): row for row in here}
        rows = [
            [str(batch), peer, *(_latency(cells.get((batch, peer, k))) for k in ks)]
            for batch in _values(here, "batch")
            for peer in PEERS
        ]
        note = f"Median milliseconds of a batch (WS against {BASELINE}). {describe_target(result['targets'][target])}."
        yield TextTable(f"{target}, {prompt} prompts", note, ["batch", "peer", *(f"K = {k}" for k in ks)], rows)


def detail_tables(result: Json) -> Iterable[TextTable]:
    """Every figure: one table per target, kind of prompt and batch size."""
    note = (
        "calls, nodes: of the target, per request. draft, target: share of the time in the models' forward passes and "
        "heads; selection: the rest. [95% interval]."
    )
    columns = ["K", "peer", "runs", "p50 ms", "p95 ms", "calls", "nodes", "draft", "target", "selection", "WS"]
    columns += ["vs generate", "of oracle", "peak MiB", "planned"]
    for target, prompt, batch in dict.fromkeys(_place(row)[:3] for row in result["rows"]):
        here = [row for row in result["rows"] if _place(row)[:3] == (target, prompt, batch)]
        rows = [[str(row["k"]), row["peer"], *_details(row)] for row in here if "skipped" not in row]
        yield TextTable(f"All figures: {target}, {prompt} prompts, batch {batch}", note, columns, rows)


def numerics_table(result: Json) -> TextTable:
    """Share of identical lists by number format."""
    numerics = result["numerics"]
    pairs = {name: figures for name, figures in numerics.items() if isinstance(figures, dict)}
    rows = [
        [name.replace("_", " "), f"{figures['identical_lists']:.4f}", f"{figures['largest_swap_gap']:.2g}"]
        for name, figures in pairs.items()
    ]
    note = (
        f"{numerics['requests']} requests, K = {numerics['k']}; the trained target. Gap: difference in log-probability."
    )
    return TextTable("Are the lists the same?", note, ["lists", "identical", "largest gap of a swapped pair"], rows)


def describe_target(facts: Json) -> str:
    """One line about a target."""
    size = f"{facts['parameters'] / 1e6:,.1f} M parameters, {facts['weights']}"
    if facts["time_from"] == facts["acceptance_from"]:
        return size
    return f"{size}; latency is this model's, acceptance is the trained target's, replayed"


def prompts(result: Json) -> Iterable[tuple[str, Json]]:
    """Pairs of a kind of prompt and its facts."""
    return dict(result["prompts"]).items()


def _summary(row: Json | None) -> str:
    if row is None or "walltime_speedup" not in row:
        return NOTHING
    return f"{row['walltime_speedup']:.2f} ({_share(row, 'share_of_oracle')}; {_ratio(row, GENERATE)})"


def _latency(row: Json | None) -> str:
    if row is None or "skipped" in row:
        return NOTHING
    speed = (
        "1" if row["peer"] == BASELINE else f"{row['walltime_speedup']:.2f}" if "walltime_speedup" in row else NOTHING
    )
    return f"{row['latency_ms_p50']:,.1f} ({speed})"


def _details(row: Json) -> list[str]:
    low, high = row.get("walltime_speedup_interval", (0, 0))
    speed = f"{row['walltime_speedup']:.2f} [{low:.2f}, {high:.2f}]" if "walltime_speedup" in row else NOTHING
    nodes = f"{row['target_nodes']:.1f}" if "target_nodes" in row else NOTHING
    planned = row.get("plan")
    return [
        str(row["runs"]),
        f"{row['latency_ms_p50']:,.1f}",
        f"{row['latency_ms_p95']:,.1f}",
        f"{row['target_calls']:.2f}",
        nodes,
        *(_share(row, f"time_share_{part}") for part in ("draft", "target", "selection")),
        speed,
        _ratio(row, GENERATE),
        _share(row, "share_of_oracle"),
        f"{row['peak_memory_mib']:,.0f}",
        f"{planned['choice']['speculation']}, {planned['predicted']['milliseconds']:,.1f} ms" if planned else "",
    ]


def _share(row: Json, name: str) -> str:
    return f"{row[name]:.0%}" if name in row else NOTHING


def _ratio(row: Json, other: str) -> str:
    value = row.get("walltime_speedup_vs_generate")
    return NOTHING if value is None or row["peer"] == other else f"{value:.1f}x"


def _place(row: Json) -> tuple[str, str, int, int]:
    return row["target"], row["prompt"], row["batch"], row["k"]


def _values(rows: Iterable[Json], name: str) -> list[int]:
    return sorted({row[name] for row in rows})
