"""Our tables alongside the paper's: one section per run of the matrix, and what its ablations and sweeps change."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from atspeed_core.evaluation.inputs import rows_by_k
from atspeed_core.metrics import Metric, of_lists
from atspeed_core.reporting import paper_figures
from atspeed_core.reporting.paper_figures import published
from atspeed_core.reporting.results import TARGET
from atspeed_core.reporting.text_table import (
    NOTHING,
    TOO_NOISY,
    TextTable,
    describe_device,
    interval_cell,
    markdown,
    oracle_share_cell,
    speedup_cell,
)
from atspeed_core.verifications import VERIFICATIONS, primary

Json = dict[str, Any]
ByK = Mapping[str, Json]
Cell = Callable[[str, str, str, Json], str]  # of method, verification, K and figures


@dataclass(frozen=True)
class PaperRun:
    """One run of the paper's matrix.

    Attributes:
        label: the data set, followed by the name of an ablation or of a point of a sweep.
        dataset: a file in presets/datasets/.
        commit: of the code.
        settings: what was changed for the run, by section, without the settings of the data set.
        metrics: content of a results/metrics.json.
        failed: methods without a result.
    """

    label: str
    dataset: str
    commit: str
    settings: Json
    metrics: Json
    failed: list[str]

    @property
    def name(self) -> str:
        """Name of the ablation or point of a sweep; "(whole)" for the run that these belong to."""
        return self.label.removeprefix(self.dataset).removeprefix("-") or "(whole)"

    @property
    def published_as(self) -> str:
        """The paper's name of the data set, such as "beauty" for "beauty-release"."""
        return self.dataset.removesuffix("-release")

    def as_json(self) -> Json:
        """The content of results/paper/LABEL.json."""
        return asdict(self)


def paper_markdown(runs: Sequence[PaperRun]) -> str:
    """The content of results/paper/TABLE.md: each run, followed by AS, calls and WS of its ablations."""
    head = "# The paper's tables, measured here\n\nAtSpeed, arXiv 2410.05165. A run: `make paper DATASET=NAME`."
    families = with_variants(runs)
    whole = {run.dataset for run, _ in families}
    parts = [head]
    for run, family in families:
        parts.append(run_markdown(run))
        if len(family) > 1:
            parts.append(f"\n![AS of ablations and sweeps]({variants_picture(run)})")
            parts += [markdown(table) for table in variant_tables(run, family)]
    parts += [run_markdown(run) for run in runs if run.dataset not in whole]
    return "\n".join(parts) + "\n"


def with_variants(runs: Sequence[PaperRun]) -> list[tuple[PaperRun, list[PaperRun]]]:
    """Every whole run among `runs` with all runs on its data set, itself included."""
    return [(run, [r for r in runs if r.dataset == run.dataset]) for run in runs if run.label == run.dataset]


def variants_picture(run: PaperRun) -> str:
    """File name of the picture of a whole run's ablations and sweeps; no label can be equal to it."""
    return f"{run.dataset}.variants.svg"


def run_markdown(run: PaperRun) -> str:
    """The section about one run."""
    metrics = run.metrics
    lines = [
        "",
        f"# {run.label}",
        "",
        f"- Ours: {describe_device(metrics['device'])}; commit {run.commit}; target of "
        f"{metrics[TARGET]['parameters'] / 1e6:.1f} M parameters; all {metrics['num_test_users']} test users.",
        f"- Settings that differ from the project's params: {_settings(run.settings)}.",
        f"- Published figures, in brackets: {paper_figures.DEVICE}; AS does not depend on the device, WS does.",
        *([f"- Failed, therefore missing: {', '.join(run.failed)}."] if run.failed else []),
        *_identity(run),
        *_below(run),
        *_best(run),
        "",
        f"![AS and target calls by K]({run.label}.svg)",
    ]
    return "\n".join([*lines, *(markdown(table) for table in tables(run) if table.rows)])


def tables(run: PaperRun) -> list[TextTable]:
    """Acceptance, calls, speed and ranking of one run alongside the paper's: one row per method, one column per K."""
    verifications = list(dict.fromkeys(name for by_name in run.metrics["methods"].values() for name in by_name))
    return [
        *(_by_method(f"Accepted steps, {v}", _as_note(v), run, v, _accepted_cell(run)) for v in verifications),
        _by_method("Target calls per request, strict by our scheme", _CALLS_NOTE, run, primary().name, _calls_cell),
        *(_by_method(f"Walltime speedup, {v}", _ws_note(run), run, v, _speed_cell(run)) for v in verifications),
        *(_by_method(f"Oracle and generate, {v}", _SHARE_NOTE, run, v, _share_cell) for v in verifications),
        *(_ranking(run, metric) for metric in of_lists() if metric.in_tables),
        _calls_against_nodes(run),
    ]


_CALLS_NOTE = "Quotas by level, repair instead of a new draft; without speculation a request takes one call per level."


_SHARE_NOTE = (
    "WS in percent of the oracle's, the most that any draft could reach on this device; and the speedup over "
    "transformers' generate with the same trie."
)


def _as_note(verification: str) -> str:
    in_paper = VERIFICATIONS.get(verification).in_paper
    how = "N beams per level, drafted in rounds" if in_paper else "quotas by level, repair"
    text = f"AS: drafted steps accepted per request by {scheme(verification)} ({how}), [95% interval], (published)."
    return f"{text} No figure: the draft cannot draft in rounds." if in_paper else text


def scheme(verification: str) -> str:
    """The scheme by which a verification's AS is counted."""
    return "the paper's scheme" if VERIFICATIONS.get(verification).in_paper else "our scheme"


def _ws_note(run: PaperRun) -> str:
    return (
        f"WS at batch 1: time of {run.metrics['speedup_baseline']}, over the time with the draft, [95% interval], "
        "(published, for another device and model)."
    )


def variant_tables(base: PaperRun, runs: Sequence[PaperRun]) -> list[TextTable]:
    """AS, calls and WS of `base` and its ablations and sweeps, for the methods of these; `runs` contain `base`."""
    variants = [run for run in runs if run is not base]
    shared = _shared_changes(variants, base)
    note = _variants_note(shared)
    shown = variant_rows(base, runs)
    tables_of_variants = []
    for verification in variant_verifications(base, shown):
        for title, name in (("AS", accepted_name(verification)), ("calls", "target_calls"), ("WS", "walltime_speedup")):
            rows = [
                (method, run, by_k)
                for run, method in shown
                if (by_k := run.metrics["methods"][method].get(verification)) and name in next(iter(by_k.values()))
            ]
            ks = _ks(by_k for _, _, by_k in rows)
            cells = [
                [method, *_identified(run, base, shared), *(_figure(by_k.get(k, {}), name) for k in ks)]
                for method, run, by_k in rows
            ]
            if cells and not (
                title == "calls" and not VERIFICATIONS.get(verification).primary
            ):  # there AS says the same
                columns = ["method", "run", "changed settings", "commit", *(f"K = {k}" for k in ks)]
                tables_of_variants.append(
                    TextTable(f"Ablations and sweeps: {title}, {verification}", note, columns, cells)
                )
    return tables_of_variants


def variant_rows(base: PaperRun, runs: Sequence[PaperRun]) -> list[tuple[PaperRun, str]]:
    """`base` and then its variants, once for every method that a variant has; `runs` contain `base`."""
    variants = [run for run in runs if run is not base]
    methods = {method for run in variants for method in run.metrics["methods"]}
    rows = [(run, method) for method in base.metrics["methods"] if method in methods for run in [base, *variants]]
    return [(run, method) for run, method in rows if method in run.metrics["methods"]]


def variant_verifications(base: PaperRun, rows: Sequence[tuple[PaperRun, str]]) -> list[str]:
    """The verifications that variants of `base` have; `rows` are those of `variant_rows`."""
    return list(dict.fromkeys(v for run, method in rows if run is not base for v in run.metrics["methods"][method]))


def _variants_note(shared: Json) -> str:
    note = "As above, [95% interval]; all test users; the same target unless its settings are among the changed ones."
    return f"{note} All except (whole) also have {_assignments(shared)}." if shared else note


def _shared_changes(variants: Sequence[PaperRun], base: PaperRun) -> Json:
    """The settings that all of several variants change in the same way, for example to take less time."""
    if len(variants) < 2:
        return {}
    every = [_changes(run, base) for run in variants]
    return {path: value for path, value in every[0].items() if all(one.get(path) == value for one in every)}


def _identified(run: PaperRun, base: PaperRun, shared: Json) -> list[str]:
    own = {path: value for path, value in _changes(run, base).items() if path not in shared}
    return [run.name, _assignments(own) or NOTHING, run.commit]


def _changes(run: PaperRun, base: PaperRun) -> Json:
    """The settings of a run that differ from those of its base, by path."""
    original = dict(_leaves(base.settings))
    return {path: value for path, value in _leaves(run.settings) if original.get(path) != value}


def _assignments(changes: Json) -> str:
    return ", ".join(f"{path} = {value}" for path, value in changes.items())


def _leaves(settings: Json, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = f"{path}.{key}".removeprefix(".")
        yield from _leaves(value, name) if isinstance(value, dict) else [(name, value)]


def _figure(figures: Json, name: str) -> str:
    if name not in figures:
        return NOTHING
    if name == "walltime_speedup":
        return speedup_cell(figures)
    return interval_cell(figures, name, 2) if f"{name}_interval" in figures else f"{figures[name]:.2f}"


def _by_method(title: str, note: str, run: PaperRun, verification: str, cell: Cell) -> TextTable:
    """One row per method, one column per K."""
    lines = {
        method: by_name[verification] for method, by_name in run.metrics["methods"].items() if verification in by_name
    }
    ks = _ks(lines.values())
    rows = [[method, *(cell(method, verification, k, by_k[k]) for k in ks)] for method, by_k in lines.items()]
    return TextTable(title, note, ["method", *(f"K = {k}" for k in ks)], rows)


def _accepted_cell(run: PaperRun) -> Cell:
    return lambda method, verification, k, figures: (
        _figure(figures, accepted_name(verification))
        + _in_brackets(published(verification, run.published_as, method, int(k), "AS"), 2)
    )


def _calls_cell(method: str, verification: str, k: str, figures: Json) -> str:
    return f"{figures['target_calls']:.2f}"


def _speed_cell(run: PaperRun) -> Cell:
    return lambda method, verification, k, figures: (
        _figure(figures, "walltime_speedup")
        + _in_brackets(published(verification, run.published_as, method, int(k), "WS"), 2)
    )


def _share_cell(method: str, verification: str, k: str, figures: Json) -> str:
    if "walltime_speedup" not in figures:
        return NOTHING
    versus = speedup_cell(figures, "walltime_speedup_vs_generate")
    return f"{oracle_share_cell(figures)}, " + (
        versus if versus == TOO_NOISY else f"{figures['walltime_speedup_vs_generate']:.1f} x"
    )


def _ranking(run: PaperRun, metric: Metric) -> TextTable:
    """The target, other recommenders, and the lists of every verification whose lists are not the target's own."""
    metrics = run.metrics
    published_figures = paper_figures.RANKING.get(run.published_as, {}).get(metric.name, {})
    lines = {name: dict(rows_by_k(by_k)) for name, by_k in {TARGET: metrics[TARGET], **metrics["baselines"]}.items()}
    for method, by_name in metrics["methods"].items():
        lines |= {f"{method}, {name}": by_k for name, by_k in by_name.items() if not VERIFICATIONS.get(name).primary}
    ks = _ks(lines.values())
    rows = [
        [
            name,
            *(
                interval_cell(by_k[k], metric.name, metric.digits)
                + _in_brackets(published_figures.get(int(k)) if name == TARGET else None, metric.digits)
                for k in ks
            ),
        ]
        for name, by_k in lines.items()
    ]
    note = (
        "[95% interval], (published). The lists of strict verification are the target's own, those of relaxed and "
        "exact_sampling are sampled. Lists that the target samples alone: target_sampling without replacement, as "
        "exact_sampling does; target_sampling_published level by level, as relaxed does, which keeps the best of what "
        "it accepts and so is closer to the target's best lists (docs/methods.md)."
    )
    return TextTable(metric.title, note, ["lists", *(f"K = {k}" for k in ks)], rows)


def _calls_against_nodes(run: PaperRun) -> TextTable:
    curves = run.metrics["calls_by_nodes"]
    budgets = sorted({row["drafted_nodes"] for rows in curves.values() for row in rows})
    users = max((row["users"] for rows in curves.values() for row in rows), default=0)
    rows = []
    for k in sorted({row["k"] for rows_of in curves.values() for row in rows_of}):
        for method, rows_of in curves.items():
            by_nodes = {row["drafted_nodes"]: row for row in rows_of if row["k"] == k}
            cells = [_calls_of(by_nodes[nodes]) if nodes in by_nodes else NOTHING for nodes in budgets]
            rows.append([str(k), method, *cells])
    note = (
        f"Target calls of strict lists of {users} test users where every request drafts this number of nodes, spread "
        "over the levels as was best for validation users; in brackets all scored nodes, mean and 95th percentile."
    )
    return TextTable("Calls at equal node budget", note, ["K", "method", *(f"{n} drafted" for n in budgets)], rows)


def _calls_of(row: Json) -> str:
    return f"{row['target_calls']:.2f} ({row['target_nodes']:.0f}, {row['target_nodes_p95']:.0f})"


def _identity(run: PaperRun) -> list[str]:
    """The number of cells in which every strict list is generate's, and the cells in which one is not."""
    shares = [
        (f"{method} K = {k}: {figures['identical_lists']:.5f}", figures["identical_lists"])
        for method, verification, k, figures in _cells(run)
        if VERIFICATIONS.get(verification).primary
    ]
    other = [text for text, share in shares if share < 1]
    where = "; but not all of " + "; ".join(other) if other else ""
    whole = f"{len(shares) - len(other)} of {len(shares)}"
    return [f"- Every strict list is that of transformers' generate in {whole} cells{where}."]


def _below(run: PaperRun) -> list[str]:
    """The cells in which our AS, with its interval, is below the published one; also where there are none."""
    compared = [
        (f"{method} {verification} K = {k} ({figures[name]:.2f} against {wanted:.2f})", figures, name, wanted)
        for method, verification, k, figures in _cells(run)
        for name in (accepted_name(verification),)
        if name in figures and (wanted := published(verification, run.published_as, method, int(k), "AS")) is not None
    ]
    if not compared:
        return []
    below = [text for text, figures, name, wanted in compared if figures[f"{name}_interval"][1] < wanted]
    where = "; ".join(below) if below else "nowhere"
    cells = f"{len(below)} of {len(compared)} cells"
    return [f"- AS is below the published figure by more than its interval in {cells}: {where}."]


def _best(run: PaperRun) -> list[str]:
    """The method of the paper that has the highest AS, by verification and K."""
    accepted: dict[str, dict[str, dict[str, float]]] = {}
    for method, verification, k, figures in _cells(run):
        if method in paper_figures.METHODS and (name := accepted_name(verification)) in figures:
            accepted.setdefault(verification, {}).setdefault(k, {})[method] = figures[name]
    return [
        f"- Highest AS of the paper's methods, {verification}: "
        + "; ".join(f"K = {k} {max(by_k[k], key=by_k[k].__getitem__)} {max(by_k[k].values()):.2f}" for k in by_k)
        + "."
        for verification, by_k in accepted.items()
    ]


def accepted_name(verification: str) -> str:
    """The figure to compare with the paper's AS: its strict verification drafts in rounds, as relaxed does here."""
    return "accepted_steps_published" if VERIFICATIONS.get(verification).also_as_published else "accepted_steps"


def _cells(run: PaperRun) -> Iterator[tuple[str, str, str, Json]]:
    for method, verifications in run.metrics["methods"].items():
        for verification, by_k in verifications.items():
            for k, figures in rows_by_k(by_k):
                yield method, verification, k, figures


def _ks(lines: Iterable[ByK]) -> list[str]:
    return sorted({k for by_k in lines for k in by_k}, key=int)


def _in_brackets(figure: float | None, digits: int) -> str:
    return "" if figure is None else f" ({figure:.{digits}f})"


def _settings(settings: Json) -> str:
    return "; ".join(f"{section} {values}" for section, values in settings.items()) or "none"
