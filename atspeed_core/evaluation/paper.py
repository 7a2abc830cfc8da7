"""The paper's tables (AtSpeed, arXiv 2410.05165, tables 1 to 3) and ours beside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from atspeed_core.evaluation.results import rows_by_k
from atspeed_core.evaluation.tables import Table, calls_table, describe_device, interval_cell, markdown

Json = dict[str, Any]
Figures = Mapping[int, float]

KS = (3, 5, 10, 20)
OF_THE_PAPER = ("sft", "wordkd", "tvdkd", "seqkd", "dare", "atspeed_s", "atspeed_r")
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
    """One run of the paper's matrix.

    Attributes:
        label: the data set, and behind it the name of an ablation.
        dataset: a file in presets/datasets/.
        commit: of the code.
        settings: what was changed for the run, by section; the data set's own left out.
        metrics: as results/metrics.json.
        failed: methods that have no result.
    """

    label: str
    dataset: str
    commit: str
    settings: Json
    metrics: Json
    failed: list[str]

    @property
    def published_as(self) -> str:
        """The paper's name of the data set: "beauty" of "beauty-release"."""
        return self.dataset.removesuffix("-release")

    def as_json(self) -> Json:
        """The content of results/paper/LABEL.json."""
        return asdict(self)


def paper_markdown(runs: Sequence[PaperRun]) -> str:
    """The content of results/paper/TABLE.md."""
    head = "# The paper's tables, measured here\n\nAtSpeed, arXiv 2410.05165. A run: `make paper DATASET=NAME`."
    return "\n".join([head, *map(run_markdown, runs)]) + "\n"


def tables(run: PaperRun) -> list[Table]:
    """Acceptance, speed and ranking of one data set, each beside the paper's, and calls at equal node budget."""
    return [_acceptance(run), _speed(run), _ranking(run), calls_table(run.metrics)]


def run_markdown(run: PaperRun) -> str:
    """The section of one data set."""
    metrics = run.metrics
    lines = [
        "",
        f"# {run.label}",
        "",
        f"- Ours: {describe_device(metrics['device'])}; commit {run.commit}; target of "
        f"{metrics['target']['parameters'] / 1e6:.1f} M parameters; all {metrics['num_test_users']} test users.",
        f"- Settings over the project's params: {_settings(run.settings)}.",
        f"- Published: {PAPER_DEVICE}; AS does not depend on the device, WS does.",
        *([f"- Failed and left out: {', '.join(run.failed)}."] if run.failed else []),
        *_below(run),
        *_best(run),
    ]
    return "\n".join([*lines, *(markdown(table) for table in tables(run) if table.rows)])


def _acceptance(run: PaperRun) -> Table:
    rows = []
    for method, verification, k, figures in _cells(run):
        name = _accepted(verification)
        accepted = interval_cell(figures, name, 2) if name in figures else "-"  # not of drafts that know no rounds
        published = _published(run, method, verification, k, "AS")
        ours = [f"{figures[each]:.2f}" for each in ("accepted_steps", "target_calls")]
        rows.append([method, verification, k, accepted, published, *ours, _identical(figures, verification)])
    note = (
        "AS: drafted steps accepted a request by the paper's scheme (N beams a level, drafted in rounds), ours [95% "
        "interval] beside the published. AS and calls of our scheme: quotas by level, repair instead of a new draft."
    )
    columns = ["method", "verification", "K", "AS", "AS published", "AS, our scheme", "calls", "identical"]
    return Table("Accepted steps", note, columns, rows)


def _speed(run: PaperRun) -> Table:
    rows = [
        [
            *(method, verification, k, interval_cell(figures, "walltime_speedup", 2)),
            _published(run, method, verification, k, "WS"),
            *(f"{figures[f'walltime_speedup_{other}']:.2f}" for other in ("oracle", "vs_generate")),
        ]
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
                interval_cell(figures, figure, 4),
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
        for name in (_accepted(verification),)
        if name in figures and (wanted := _wanted(run, method, verification, int(k), "AS")) is not None
    ]
    if not compared:
        return []
    below = [text for text, figures, name, wanted in compared if figures[f"{name}_interval"][1] < wanted]
    where = "; ".join(below) if below else "nowhere"
    return [f"- AS below the published figure, by more than its interval, in {len(below)} of {len(compared)}: {where}."]


def _best(run: PaperRun) -> list[str]:
    """Which of the paper's methods has the highest AS, by verification and K."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method, verification, k, figures in _cells(run):
        if method in OF_THE_PAPER and (name := _accepted(verification)) in figures:
            found.setdefault(verification, {}).setdefault(k, {})[method] = figures[name]
    return [
        f"- Highest AS of the paper's methods, {verification}: "
        + "; ".join(f"K = {k} {max(by_k[k], key=by_k[k].__getitem__)} {max(by_k[k].values()):.2f}" for k in by_k)
        + "."
        for verification, by_k in found.items()
    ]


def _accepted(verification: str) -> str:
    """The figure that is the paper's AS: strict drafts in rounds there, as relaxed does here too."""
    return "accepted_steps_published" if verification == "strict" else "accepted_steps"


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


def _settings(settings: Json) -> str:
    return "; ".join(f"{section} {values}" for section, values in settings.items()) or "none"
