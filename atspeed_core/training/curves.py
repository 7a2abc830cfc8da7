"""Learning curves: named values by step, collected in memory and written as CSV."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

CURVES_FILE = "curves.csv"


@dataclass
class Curves:
    """Values of a training run.

    Attributes:
        rows: (step, name, value) in the order of recording.
    """

    rows: list[tuple[int, str, float]] = field(default_factory=list)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at `step`."""
        self.rows += [(step, name, value) for name, value in values.items()]

    def csv(self, *, every: int = 1) -> str:
        """The curves as CSV (step, name, value), thinned to steps divisible by `every`."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "name", "value"])
        writer.writerows((step, name, f"{value:.6g}") for step, name, value in self.rows if step % every == 0)
        return out.getvalue()


def read_curves(path: str | Path) -> Curves:
    """Read what `Curves.csv` wrote."""
    with Path(path).open(encoding="utf-8", newline="") as lines:
        return Curves([(int(r["step"]), r["name"], float(r["value"])) for r in csv.DictReader(lines)])
