"""Data sources, one file each: a kind of input files with its reader.

docs/extending.md shows how to add one. Importing this package imports no reader, hence no pandas.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atspeed_core.data.origins import Origin, where_to_get
from atspeed_core.settings import PrepareData
from atspeed_core.variants import Variants

if TYPE_CHECKING:
    from atspeed_core.data.tables import Table


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data source.

    Attributes:
        name: that of its file.
        order: position in docs/datasets.md.
        summary: what `prepare_data.path` is, in one line.
        read: the section `prepare_data` -> interactions (user_id, item_id and, where known, rating and timestamp) and
            items (item_id, title, text), if the source has any; `reading.read_source` checks both.
        origins: where its files can be downloaded; empty: they are the user's own.
        uses: settings that are for some sources alone and have an effect on this one: "items_path", "columns".
        is_split: whether its files are training, validation and test parts already: `split` is "published".
    """

    name: str
    order: int
    summary: str
    read: "Callable[[PrepareData], tuple[Table, Table | None]]"
    origins: tuple[Origin, ...] = ()
    uses: tuple[str, ...] = ()
    is_split: bool = False


SOURCES = Variants(__name__, Source, "source", order=lambda source: source.order)


def absent(settings: PrepareData) -> str | None:
    """What is missing and where to get it, when nothing is at `settings.path`; None when something is."""
    if Path(settings.path).exists():
        return None
    return f"{settings.path}: not there; {where_to_get(SOURCES.get(settings.source).origins)}"
