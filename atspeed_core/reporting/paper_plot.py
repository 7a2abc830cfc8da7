"""results/paper/*.svg: AS of a run with the published figures, its target calls by K, and AS of its variants."""

from collections.abc import Sequence
from io import StringIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from atspeed_core.evaluation.inputs import rows_by_k
from atspeed_core.reporting.paper_figures import published
from atspeed_core.reporting.paper_tables import PaperRun, accepted_name, scheme, variant_rows, variant_verifications
from atspeed_core.verifications import primary

WIDTH, HEIGHT = 5.2, 4.4  # of a panel, in inches
ROW = 0.32  # height of a variant, in inches


def paper_svg(run: PaperRun) -> str:
    """The picture as SVG: AS by verification, published figures hollow, and target calls by our scheme."""
    methods = run.metrics["methods"]
    verifications = list(dict.fromkeys(name for by_name in methods.values() for name in by_name))
    figure = Figure(figsize=(WIDTH * (len(verifications) + 1), HEIGHT), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(verifications) + 1, squeeze=False)[0]
    for panel, verification in zip(panels, verifications, strict=False):
        _lines(panel, run, verification, accepted_name(verification))
        _published(panel, run, verification)
        panel.set(title=f"AS by {scheme(verification)}, {verification}", ylabel="accepted steps per request")
    _lines(panels[-1], run, primary().name, "target_calls")
    panels[-1].set(title="Target calls, strict by our scheme", ylabel="calls per request")
    for panel in panels:
        panel.set_xlabel("K")
        panel.grid(alpha=0.3)
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, max(1, len(handles))))
    return _svg(figure, run.label)


def variants_svg(base: PaperRun, runs: Sequence[PaperRun]) -> str:
    """The picture of a run and its ablations and sweeps: AS with its interval, one row per variant.

    `runs` contain `base`, which the dotted lines show.
    """
    rows = variant_rows(base, runs)
    verifications = variant_verifications(base, rows)
    figure = Figure(figsize=(WIDTH * len(verifications) + 1, ROW * len(rows) + 1.5), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(verifications), squeeze=False, sharey=True)[0]
    for panel, verification in zip(panels, verifications, strict=True):
        _intervals(panel, base, rows, verification)
        panel.set(title=f"AS by {scheme(verification)}, {verification}", xlabel="accepted steps per request")
        panel.grid(alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [f"{method}, {run.name}" for run, method in rows])
    panels[0].invert_yaxis()
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=max(1, len(handles)))
    return _svg(figure, f"{base.label} variants")


def _svg(figure: Figure, salt: str) -> str:
    """The figure as SVG; the same figures with the same `salt` give the same file."""
    out = StringIO()
    with rc_context({"svg.hashsalt": salt}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _intervals(panel: Axes, base: PaperRun, rows: Sequence[tuple[PaperRun, str]], verification: str) -> None:
    name = accepted_name(verification)
    ks = sorted({k for run, method in rows for k in run.metrics["methods"][method].get(verification, {})}, key=int)
    for number, k in enumerate(ks):
        cells = [run.metrics["methods"][method].get(verification, {}).get(k, {}) for run, method in rows]
        shown = [(row, figures) for row, figures in enumerate(cells) if name in figures]
        for row, figures in shown:
            panel.plot(figures[f"{name}_interval"], [row, row], color=f"C{number}")
            if rows[row][0] is base:
                panel.axvline(figures[name], color=f"C{number}", linestyle=":", linewidth=1)
        points = [(figures[name], row) for row, figures in shown]
        if points:
            panel.plot(*zip(*points, strict=True), f"C{number}o", markersize=4, label=f"K = {k}")


def _lines(panel: Axes, run: PaperRun, verification: str, name: str) -> None:
    for number, (method, by_name) in enumerate(run.metrics["methods"].items()):
        points = [(k, figures[name]) for k, figures in rows_by_k(by_name.get(verification, {})) if name in figures]
        if points:
            panel.plot(*zip(*points, strict=True), color=f"C{number}", marker="o", markersize=4, label=method)


def _published(panel: Axes, run: PaperRun, verification: str) -> None:
    for number, method in enumerate(run.metrics["methods"]):
        ks = [k for k, _ in rows_by_k(run.metrics["methods"][method].get(verification, {}))]
        by_k = {k: published(verification, run.published_as, method, int(k), "AS") for k in ks}
        points = [(k, value) for k, value in by_k.items() if value is not None]
        if points:
            line = panel.plot(*zip(*points, strict=True), f"C{number}o:", label=f"{method}, published")[0]
            line.set(markersize=5, markerfacecolor="none")
