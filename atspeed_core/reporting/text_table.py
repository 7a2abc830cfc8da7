"""A table as rows of text, its cells, and its form in Markdown; `report_page` shows it in HTML."""

from dataclasses import dataclass
from typing import Any

from atspeed_core.evaluation.speed import too_noisy

Json = dict[str, Any]

NOTHING = "-"
NOTHING_SPECULATED, TOO_NOISY = "nothing speculated", "too noisy"


@dataclass(frozen=True)
class TextTable:
    """A table to be shown: its title, what the reader must know about it, column names and rows of text."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]


def markdown(table: TextTable) -> str:
    """A table in Markdown, with its heading and note."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(["", f"## {table.title}", "", table.note, "", *("| " + " | ".join(row) + " |" for row in lines)])


def interval_cell(figures: Json, name: str, digits: int) -> str:
    """A figure with its 95% interval; a dash where the results do not contain it."""
    if name not in figures:
        return NOTHING
    low, high = figures[f"{name}_interval"]
    return f"{figures[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def speedup_cell(figures: Json, name: str = "walltime_speedup") -> str:
    """A ratio of times with its 95% interval, or the reason why there is no meaningful ratio."""
    if name == "walltime_speedup" and not figures.get("speculated", True):
        return NOTHING_SPECULATED
    return TOO_NOISY if too_noisy(figures[f"{name}_interval"]) else interval_cell(figures, name, 2)


def oracle_share_cell(figures: Json) -> str:
    """WS in percent of the oracle's; a dash where one of them has no meaningful value."""
    cells = [speedup_cell(figures), speedup_cell(figures, "walltime_speedup_oracle")]
    if set(cells) & {NOTHING_SPECULATED, TOO_NOISY}:
        return NOTHING
    return f"{figures['walltime_speedup'] / figures['walltime_speedup_oracle']:.0%}"


def describe_device(device: Json) -> str:
    """One line about the machine and the versions."""
    return (
        f"{device['name']} ({device['cores']} cores, {device['threads']} threads), {device['dtype']}, "
        f"torch {device['torch']}, transformers {device['transformers']}"
    )
