"""results/paper/LABEL.svg: AS beside the published ones, and target calls, by K."""

from io import StringIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from atspeed_core.evaluation.paper import STRICT, PaperRun, accepted_name
from atspeed_core.evaluation.paper_figures import published
from atspeed_core.evaluation.results import rows_by_k

WIDTH, HEIGHT = 5.2, 4.4  # of a panel, in inches


def paper_svg(run: PaperRun) -> str:
    """The picture as SVG: AS by verification, the published hollow, and the calls of our scheme."""
    methods = run.metrics["methods"]
    verifications = list(dict.fromkeys(name for by_name in methods.values() for name in by_name))
    figure = Figure(figsize=(WIDTH * (len(verifications) + 1), HEIGHT), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(verifications) + 1, squeeze=False)[0]
    for panel, verification in zip(panels, verifications, strict=False):
        _lines(panel, run, verification, accepted_name(verification))
        _published(panel, run, verification)
        panel.set(title=f"AS by the paper's scheme, {verification}", ylabel="accepted steps a request")
    _lines(panels[-1], run, STRICT, "target_calls")
    panels[-1].set(title="Target calls, strict by our scheme", ylabel="calls a request")
    for panel in panels:
        panel.set_xlabel("K")
        panel.grid(alpha=0.3)
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, max(1, len(handles))))
    out = StringIO()
    with rc_context({"svg.hashsalt": run.label}):  # the same figures, the same file
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _lines(panel: Axes, run: PaperRun, verification: str, name: str) -> None:
    for number, (method, by_name) in enumerate(run.metrics["methods"].items()):
        points = [(k, figures[name]) for k, figures in rows_by_k(by_name.get(verification, {})) if name in figures]
        if points:
            panel.plot(*zip(*points, strict=True), color=f"C{number}", marker="o", markersize=4, label=method)


def _published(panel: Axes, run: PaperRun, verification: str) -> None:
    for number, method in enumerate(run.metrics["methods"]):
        ks = [k for k, _ in rows_by_k(run.metrics["methods"][method].get(verification, {}))]
        told = {k: published(verification, run.published_as, method, int(k), "AS") for k in ks}
        points = [(k, value) for k, value in told.items() if value is not None]
        if points:
            line = panel.plot(*zip(*points, strict=True), f"C{number}o:", label=f"{method}, published")[0]
            line.set(markersize=5, markerfacecolor="none")
