"""A table as rows of text, and how its cells are written; Markdown shows it here, HTML in `report_page`."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class TextTable:
    """A table to be shown: title, what the reader must know of it, column names and rows of text."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]


def markdown(table: TextTable) -> str:
    """A table in Markdown, with its heading and note."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(["", f"## {table.title}", "", table.note, "", *("| " + " | ".join(row) + " |" for row in lines)])


def interval_cell(figures: Json, name: str, digits: int) -> str:
    """A figure with its 95% interval."""
    low, high = figures[f"{name}_interval"]
    return f"{figures[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def describe_device(device: Json) -> str:
    """One line on the machine and the versions."""
    return (
        f"{device['name']} ({device['cores']} cores, {device['threads']} threads), {device['dtype']}, "
        f"torch {device['torch']}, transformers {device['transformers']}"
    )
