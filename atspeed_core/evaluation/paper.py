"""The paper's tables (AtSpeed, arXiv 2410.05165, tables 1 to 3) and ours beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from atspeed_core.evaluation.results import rows_by_k
from atspeed_core.evaluation.tables import Table, describe_device, markdown

Json = dict[str, Any]
Figures = Mapping[int, float]

KS = (3, 5, 10, 20)
PAPER_DEVICE = "a LLaMA-7B on one GPU of 24 GB"


@dataclass(frozen=True)
class Published:
    """One row of the paper: K -> figure; what is not in the tables at hand is left out.

    Attributes:
        speedup: WS, walltime speedup over the target's own beam search.
        accepted: AS, accepted steps.
    """

    speedup: Figures
    accepted: Figures


def _row(speedup: str, accepted: str) -> Published:
    """Figures for `KS`, divided by blanks; "-" where the paper's tables at hand have none."""
    both = [{k: float(v) for k, v in zip(KS, text.split(), strict=True) if v != "-"} for text in (speedup, accepted)]
    return Published(*both)


STRICT: dict[str, dict[str, Published]] = {
    "beauty": {
        "dare": _row("1.07 1.06 1.15 1.48", "0.44 0.26 0.05 0.00"),
        "sft": _row("- 1.43 1.37 1.55", "- 1.32 0.66 0.09"),
        "wordkd": _row("- 1.58 1.52 1.58", "- 1.60 1.03 0.16"),
        "tvdkd": _row("- 1.44 1.37 1.57", "- 1.31 0.65 0.09"),
        "seqkd": _row("- 1.75 1.67 1.68", "- 1.85 1.27 0.30"),
        "atspeed_s": _row("1.97 1.84 1.87 1.84", "2.20 2.00 1.64 0.57"),
        "atspeed_r": _row("- 1.70 1.71 1.74", "- 1.82 1.33 0.43"),
    },
    "games": {
        "dare": _row("0.95 0.99 1.13 1.44", "0 0 0 0"),
        "sft": _row("- 1.43 1.40 1.58", "1.49 1.32 0.91 -"),
        "seqkd": _row("- 1.60 1.46 1.77", "1.95 1.67 1.05 -"),
        "atspeed_s": _row("1.77 1.78 1.85 1.76", "2.02 1.96 1.69 0.68"),
    },
    "ml-1m": {
        "sft": _row("1.65 1.35 1.48 1.76", "1.99 1.26 1.14 1.03"),
        "atspeed_s": _row("1.86 1.79 1.80 1.75", "2.08 2.03 1.98 1.09"),
    },
    "goodreads": {
        "sft": _row("1.83 1.81 2.17 2.46", "2.04 1.98 1.72 1.07"),
        "atspeed_s": _row("2.25 2.26 2.20 2.48", "2.32 2.18 1.81 1.08"),
    },
}
RELAXED: dict[str, dict[str, Published]] = {
    "beauty": {"atspeed_r": _row("1.94 1.94 2.16 2.47", "2.19 2.13 2.01 1.77")},
    "games": {"atspeed_r": _row("1.92 2.00 2.05 2.20", "2.18 2.17 1.98 1.35")},
    "ml-1m": {"atspeed_r": _row("2.24 2.22 2.14 1.64", "- - - -")},
    "goodreads": {"atspeed_r": _row("2.45 2.39 1.77 2.36", "- - - -")},
}
PUBLISHED = {"strict": STRICT, "relaxed": RELAXED}
RANKING: dict[str, dict[str, Figures]] = {
    "beauty": {"recall": {5: 0.0056, 10: 0.0098}, "ndcg": {5: 0.0051, 10: 0.0066}},
    "games": {"recall": {5: 0.0074, 10: 0.0125}, "ndcg": {5: 0.0065, 10: 0.0083}},
}


@dataclass(frozen=True)
class PaperRun:
    """One data set's run.

    Attributes:
        dataset: a file in presets/datasets/.
        commit: of the code.
        params: what was changed for the run, by section.
        metrics: as results/metrics.json.
        failed: stages that did not end well.
    """

    dataset: str
    commit: str
    params: Json
    metrics: Json
    failed: list[str]

    @property
    def published_as(self) -> str:
        """The paper's name of the data set: "beauty" of "beauty-release"."""
        return self.dataset.removesuffix("-release")


def tables(run: PaperRun) -> list[Table]:
    """Acceptance, speed and ranking of one data set, each beside what the paper says."""
    return [_acceptance(run), _speed(run), _ranking(run)]


def run_markdown(run: PaperRun) -> str:
    """The section of one data set."""
    metrics = run.metrics
    lines = [
        "",
        f"# {run.dataset}",
        "",
        f"- Ours: {describe_device(metrics['device'])}; commit {run.commit}; target of "
        f"{metrics['target']['parameters'] / 1e6:.1f} M parameters; all {metrics['num_test_users']} test users.",
        f"- Published: {PAPER_DEVICE}; AS does not depend on the device, WS does.",
        *([f"- Failed and left out: {', '.join(run.failed)}."] if run.failed else []),
        *_below(run),
    ]
    return "\n".join([*lines, *(markdown(table) for table in tables(run) if table.rows)])


def _acceptance(run: PaperRun) -> Table:
    rows = []
    for method, verification, k, figures in _cells(run):
        name = "accepted_steps_published" if "accepted_steps_published" in figures else "accepted_steps"
        if verification == "strict" and name == "accepted_steps":
            continue
        rows.append(
            [method, verification, k, _with_interval(figures, name, 2), _published(run, method, verification, k, "AS")]
            + [f"{figures['accepted_steps']:.2f}", f"{figures['target_calls']:.2f}", _identical(figures, verification)]
        )
    note = (
        "AS: drafted steps accepted a request by the paper's scheme (N beams a level, drafted in rounds), ours [95% "
        "interval] beside the published. AS and calls of our scheme: quotas by level, repair instead of a new draft."
    )
    columns = ["method", "verification", "K", "AS", "AS published", "AS, our scheme", "calls", "identical"]
    return Table("Accepted steps", note, columns, rows)


def _speed(run: PaperRun) -> Table:
    rows = [
        [method, verification, k, _with_interval(figures, "walltime_speedup", 2)]
        + [_published(run, method, verification, k, "WS"), f"{figures['walltime_speedup_oracle']:.2f}"]
        + [f"{figures['walltime_speedup_vs_generate']:.2f}"]
        for method, verification, k, figures in _cells(run)
        if "walltime_speedup" in figures
    ]
    note = (
        f"WS at batch 1: time of {run.metrics['speedup_baseline']}, over the time with the draft. Oracle: the most "
        "that any draft could reach on this device. The published ones are of another device and model."
    )
    columns = ["method", "verification", "K", "WS", "WS published", "oracle", "vs generate"]
    return Table("Walltime speedup", note, columns, rows)


def _ranking(run: PaperRun) -> Table:
    published = RANKING.get(run.published_as, {})
    recommenders = {"target": run.metrics["target"], **run.metrics["baselines"]}
    rows = [
        [name, k]
        + [
            cell
            for figure in ("recall", "ndcg")
            for cell in (
                _with_interval(figures, figure, 4),
                _number(published.get(figure, {}).get(int(k)) if name == "target" else None, 4),
            )
        ]
        for name, by_k in recommenders.items()
        for k, figures in rows_by_k(by_k)
    ]
    columns = ["recommender", "K", "Recall", "published", "NDCG", "published"]
    return Table("Ranking", "The lists of strict verification are the target's own.", columns, rows)


def _below(run: PaperRun) -> list[str]:
    """Where our AS lies below the published one, interval and all; said plainly, also that it does nowhere."""
    compared = [
        (f"{method} {verification} K = {k} ({figures[name]:.2f} against {wanted:.2f})", figures, name, wanted)
        for method, verification, k, figures in _cells(run)
        for name in ("accepted_steps_published" if verification == "strict" else "accepted_steps",)
        if name in figures and (wanted := _wanted(run, method, verification, int(k), "AS")) is not None
    ]
    if not compared:
        return []
    below = [text for text, figures, name, wanted in compared if figures[f"{name}_interval"][1] < wanted]
    where = "; ".join(below) if below else "nowhere"
    return [f"- AS below the published figure, by more than its interval, in {len(below)} of {len(compared)}: {where}."]


def _cells(run: PaperRun) -> Iterator[tuple[str, str, str, Json]]:
    for method, verifications in run.metrics["methods"].items():
        for verification, by_k in verifications.items():
            for k, figures in rows_by_k(by_k):
                yield method, verification, k, figures


def _wanted(run: PaperRun, method: str, verification: str, k: int, figure: str) -> float | None:
    row = PUBLISHED.get(verification, {}).get(run.published_as, {}).get(method)
    return (row.accepted if figure == "AS" else row.speedup).get(k) if row else None


def _published(run: PaperRun, method: str, verification: str, k: str, figure: str) -> str:
    return _number(_wanted(run, method, verification, int(k), figure), 2)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _identical(figures: Json, verification: str) -> str:
    return f"{figures['identical_lists']:.4f}" if verification != "relaxed" else "-"


def _with_interval(figures: Json, name: str, digits: int) -> str:
    low, high = figures[f"{name}_interval"]
    return f"{figures[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
