"""Section `prepare_data`: which interactions are read, kept and split."""

from typing import Annotated, Literal

from pydantic import Field

from atspeed_core.settings.section import Positive, Section, variant_in

SourceName = Annotated[str, variant_in("atspeed_core.data.sources", "source")]


class Columns(Section):
    """Column names of a plain CSV or parquet file (source `table`) or fields of RecBole files (`recbole`)."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = "rating"
    timestamp: str | None = "timestamp"
    title: str | None = "title"
    text: list[str] = []


class PrepareData(Section):
    """Which interactions are read, which are kept and how they are split.

    Attributes:
        sample: number of users to keep for a quick look, sampled with `seed` before the k-core; null: all.
    """

    dataset: str
    source: SourceName
    path: str
    items_path: str | None = None
    columns: Columns = Columns()
    rating_threshold: float | None
    k_core: Annotated[int, Field(ge=1)]
    duplicates: Literal["first", "last", "all", "error"]
    split: Literal["chronological", "leave_one_out", "published"]
    max_history: Positive
    sample: Positive | None
    seed: int
