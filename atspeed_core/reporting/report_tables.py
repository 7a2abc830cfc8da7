"""The report's tables as rows of text, and results/summary.md, which consists of them."""

from collections.abc import Sequence
from typing import Any

from atspeed_core.evaluation.inputs import rows_by_k
from atspeed_core.metrics import Metric, of_decoding, of_lists
from atspeed_core.reporting.results import TARGET
from atspeed_core.reporting.text_table import (
    NOTHING,
    TextTable,
    describe_device,
    interval_cell,
    markdown,
    oracle_share_cell,
    speedup_cell,
)
from atspeed_core.verifications import VERIFICATIONS

Json = dict[str, Any]


def ranking_table(metrics: Json) -> TextTable:
    """The metrics of lists: of the target, of its sampled lists and of the recommenders without a language model."""
    metrics_of_lists = [metric for metric in of_lists() if metric.in_tables]
    recommenders = {TARGET: metrics[TARGET], **metrics["baselines"]}
    rows = [
        [name, k, *(interval_cell(figures, metric.name, metric.digits) for metric in metrics_of_lists)]
        for name, by_k in recommenders.items()
        for k, figures in rows_by_k(by_k)
    ]
    excluded = "without" if metrics[TARGET]["exclude_history"] else "with"
    note = f"All {metrics['num_test_users']} test users; [95% interval]. Target: {excluded} the items of the history."
    columns = ["recommender", "K", *(metric.label for metric in metrics_of_lists)]
    return TextTable("Does the target recommend?", note, columns, rows)


def speed_table(metrics: Json) -> TextTable:
    """Acceptance, speed and identity of each method and verification."""
    names = dict.fromkeys(name for verifications in metrics["methods"].values() for name in verifications)
    columns = ["method", "verification", "K", *(metric.label for metric in of_decoding() if metric.in_tables)]
    columns += ["AS published", "WS", "oracle", "of oracle", "vs generate", "identical"]
    columns += [*(metric.label for metric in of_lists() if metric.in_tables), "p50 ms", "p95 ms", "plan"]
    rows = []
    for method, verifications in metrics["methods"].items():
        for name in names:
            by_k = verifications.get(name)
            if by_k is None:  # this draft does not offer it
                rows.append([method, name, *["-"] * (len(columns) - 2)])
                continue
            rows += [[method, name, k, *_speed_cells(f), _planned(metrics, method, name, k)] for k, f in by_k.items()]
    timing, all_users = metrics["timing"], metrics["num_test_users"]
    figures = [f for by_name in metrics["methods"].values() for by_k in by_name.values() for f in by_k.values()]
    published_users = max((f["published_users"] for f in figures if "published_users" in f), default=all_users)
    note = (
        f"WS: time of {metrics['speedup_baseline']}, over the time with the draft, median over requests; vs generate: "
        "the same over transformers' generate. Oracle: a drafter that knows the answer and costs nothing. Where the "
        "plan chose no speculation (none) for this device, both searches are the same and there is no ratio; where an "
        "interval is so wide that its ratio means nothing, the cell says so. AS and calls "
        "are the draft's, with the usual quotas. AS published: strict by the paper's scheme, as many beams at every "
        f"level, drafted again in every round, over {published_users} users. identical: to generate's lists; those of "
        "exact_sampling to lists that the target samples alone. "
        f"Times: {timing['users']} users x {timing['repetitions']} on {describe_device(metrics['device'])}, load "
        f"average {_load(timing)}; "
        f"the rest: all {all_users} test users{_fewer_users(metrics)}; [95% interval]."
    )
    return TextTable("How fast, and the same lists?", note, columns, rows)


def calls_table(metrics: Json) -> TextTable:
    """Target calls by number of drafted nodes."""
    rows = [
        [
            method,
            str(row["k"]),
            str(row["drafted_nodes"]),
            f"{row['target_calls']:.2f}",
            f"{row['target_nodes']:.0f}",
            f"{row['target_nodes_p95']:.0f}",
            f"{row['identical_lists']:.4f}",
        ]
        for method, by_nodes in metrics["calls_by_nodes"].items()
        for row in by_nodes
    ]
    users = max((row["users"] for by_nodes in metrics["calls_by_nodes"].values() for row in by_nodes), default=0)
    note = (
        f"Strict lists of {users} test users where every request drafts this number of nodes; their distribution over "
        "the levels is chosen on validation users. Nodes, mean and p95, include those of later calls."
    )
    columns = ["method", "K", "drafted nodes", "calls", "nodes", "nodes p95", "identical"]
    return TextTable("How many calls for how many nodes?", note, columns, rows)


def comparison_table(metrics: Json) -> TextTable:
    """Paired differences over the same users."""
    rows = [
        [pair, figure, k, interval_cell(figures, name, 4)]
        for pair, by_key in metrics["comparisons"].items()
        for label, by_k in _by_verification(by_key)
        for k, figures in by_k.items()
        for name, figure in ((n, f"{label}{n}") for n in figures if not n.endswith("_interval"))
    ]
    note = "Mean difference over the same test users; an interval without 0 indicates a difference."
    return TextTable("Paired differences", note, ["pair", "figure", "K", "difference"], rows)


def summary_markdown(title: str, metrics: Json) -> str:
    """The content of results/summary.md."""
    head = [f"# {title}", "", *(f"- {line}" for line in describe(metrics))]
    tables = [ranking_table(metrics), speed_table(metrics), calls_table(metrics), comparison_table(metrics)]
    return "\n".join([*head, *(markdown(table) for table in tables if table.rows)]) + "\n"


def describe(metrics: Json) -> list[str]:
    """What was measured and on what, one line each."""
    data, drafts = metrics["dataset"], metrics["drafts"]
    return [
        "Data: " + ", ".join(f"{key} {value}" for key, value in data.items() if not isinstance(value, dict | list)),
        f"Device: {describe_device(metrics['device'])}",
        f"Target: {metrics[TARGET]['parameters']:,} parameters; drafts: "
        + ", ".join(f"{name} {draft['parameters']:,}" for name, draft in drafts.items()),
        "Other recommenders with their settings, which were chosen on validation users (a temperature was given): "
        + "; ".join(f"{name} {_settings(by_k['settings'])}" for name, by_k in metrics["baselines"].items()),
    ]


def _planned(metrics: Json, method: str, verification: str, k: str) -> str:
    """The plan's choices for single requests; only some verifications follow the plan."""
    if not VERIFICATIONS.get(verification).planned:
        return ""
    return ", ".join(dict.fromkeys(metrics["plans"][method].get(k, [])))


def _speed_cells(figures: Json) -> list[str]:
    return [
        *(_metric_cell(figures, metric, with_interval=metric.compared) for metric in of_decoding() if metric.in_tables),
        interval_cell(figures, "accepted_steps_published", 2),
        speedup_cell(figures),
        speedup_cell(figures, "walltime_speedup_oracle"),
        oracle_share_cell(figures),
        speedup_cell(figures, "walltime_speedup_vs_generate"),
        f"{figures['identical_lists']:.4f}",
        *(_metric_cell(figures, metric) for metric in of_lists() if metric.in_tables),
        f"{figures['latency_ms_p50']:.1f}",
        f"{figures['latency_ms_p95']:.1f}",
    ]


def _fewer_users(metrics: Json) -> str:
    """The verifications that were measured on fewer users than all."""
    users = {
        name: figures["users"]
        for by_name in metrics["methods"].values()
        for name, by_k in by_name.items()
        for figures in by_k.values()
        if figures.get("users", metrics["num_test_users"]) < metrics["num_test_users"]
    }
    return "".join(f", of {name} {count}" for name, count in users.items())


def _metric_cell(figures: Json, metric: Metric, *, with_interval: bool = False) -> str:
    if with_interval:
        return interval_cell(figures, metric.name, metric.digits)
    return f"{figures[metric.name]:.{metric.digits}f}" if metric.name in figures else NOTHING


def _load(timing: Json) -> str:
    """Smallest and largest load average of the machine while times were measured."""
    loads = [load for by_k in timing["load_average"].values() for load in by_k.values() if load is not None]
    return f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown"


def _by_verification(by_key: Json) -> Sequence[tuple[str, Json]]:
    if all(key.isdigit() for key in by_key):
        return [("", by_key)]
    return [(f"{verification} ", by_k) for verification, by_k in by_key.items()]


def _settings(settings: Json) -> str:
    return "(" + ", ".join(f"{key} {'all' if value is None else value}" for key, value in settings.items()) + ")"
