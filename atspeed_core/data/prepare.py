"""prepare_data: interactions -> validated, split sequences, items and statistics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from atspeed_core.data import filtering, splitting
from atspeed_core.data.reading import read_source
from atspeed_core.data.schemas import check_prepared
from atspeed_core.data.statistics import Steps, statistics
from atspeed_core.errors import UserError
from atspeed_core.files import replacing, write_json
from atspeed_core.settings import PrepareData

_STRINGS, _TIMES = pa.list_(pa.string()), pa.list_(pa.int64())
_EXAMPLES = [("user_id", pa.string()), ("history", _STRINGS), ("targets", _STRINGS), ("target_timestamps", _TIMES)]
LAYOUTS = {
    "train": pa.schema([("user_id", pa.string()), ("item_ids", _STRINGS), ("timestamps", _TIMES)]),
    "valid": pa.schema(_EXAMPLES),
    "test": pa.schema(_EXAMPLES),
    "items": pa.schema([("item_id", pa.string()), ("title", pa.string()), ("text", pa.string())]),
}


@dataclass(frozen=True)
class PreparedData:
    """The output of prepare_data.

    Attributes:
        train: user_id, item_ids (oldest first), timestamps (unix seconds, None where unknown).
        valid: user_id, history (oldest first), targets, target_timestamps.
        test: as `valid`.
        items: item_id, title, text; one row per item that occurs in a part.
        stats: the content of stats.json.
    """

    train: pd.DataFrame
    valid: pd.DataFrame
    test: pd.DataFrame
    items: pd.DataFrame
    stats: dict[str, Any]


def prepare(settings: PrepareData) -> PreparedData:
    """Read the source, filter and split it as the settings specify, and check the result.

    Raises:
        UserError: the source is missing, unreadable or wrong, or nothing of it remains.
    """
    source = read_source(settings)
    steps = Steps()
    steps.add("read", source.interactions)
    try:
        parted = _parted(source.interactions, settings, steps)
        prepared = _tables(parted, source.items, settings, steps)
    except UserError as error:
        raise UserError(f"{source.path}: {error}") from None
    check_prepared({name: getattr(prepared, name) for name in LAYOUTS})
    return prepared


def write(prepared: PreparedData, folder: str | Path) -> None:
    """Write train, valid, test and items as Parquet and stats.json into `folder`, each atomically."""
    for name, layout in LAYOUTS.items():
        table = pa.Table.from_pandas(getattr(prepared, name), schema=layout, preserve_index=False)
        with replacing(Path(folder) / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
    write_json(Path(folder) / "stats.json", prepared.stats)


def _parted(interactions: pd.DataFrame, settings: PrepareData, steps: Steps) -> pd.DataFrame:
    """Filter and split; a published split stays as it is."""
    if settings.split == "published":
        return _sampled(interactions, settings, steps, k=1)
    cut = splitting.chronological if settings.split == "chronological" else splitting.leave_one_out
    parted = cut(_filtered(interactions, settings, steps))
    steps.add("split", parted)
    return parted


def _filtered(interactions: pd.DataFrame, settings: PrepareData, steps: Steps) -> pd.DataFrame:
    remaining = interactions
    if settings.rating_threshold is not None:
        remaining = filtering.at_least(remaining, settings.rating_threshold)
        steps.add(f"rating >= {settings.rating_threshold:g}", remaining)
    remaining = filtering.without_duplicates(filtering.in_time_order(remaining), settings.duplicates)
    steps.add(f"duplicates: {settings.duplicates}", remaining)
    remaining = _sampled(remaining, settings, steps, settings.k_core)
    remaining = filtering.k_core(remaining, settings.k_core).astype({"user_id": "str", "item_id": "str"})
    steps.add(f"{settings.k_core}-core", remaining)
    if remaining.empty:
        sample = ", or sample more users" if settings.sample else ""
        raise UserError(f"no interactions are left ({steps.summary()}); lower rating_threshold or k_core{sample}")
    return remaining


def _sampled(interactions: pd.DataFrame, settings: PrepareData, steps: Steps, k: int) -> pd.DataFrame:
    if settings.sample is None:
        return interactions
    remaining = filtering.sampled(interactions, settings.sample, settings.seed, k)
    steps.add(f"sample: {settings.sample} users", remaining)
    return remaining


def _tables(parted: pd.DataFrame, known: pd.DataFrame, settings: PrepareData, steps: Steps) -> PreparedData:
    train = splitting.train_table(parted)
    examples = {part: splitting.example_table(parted, part, settings.max_history) for part in ("valid", "test")}
    empty = [name for name, table in {"train": train, **examples}.items() if table.empty]
    if empty:
        remedy = "give more interactions, or change split or k_core"
        raise UserError(f"no user is left in {' and '.join(empty)} ({steps.summary()}); {remedy}")
    items = items_table(parted, known)
    return PreparedData(train, **examples, items=items, stats=statistics(parted, settings, steps))


def items_table(parted: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """item_id, title, text of every item in `parted`, by item id; an unknown title is the item id."""
    items = pd.DataFrame({"item_id": sorted(parted["item_id"].unique())})
    items = items.merge(known, on="item_id", how="left").fillna("")
    return items.assign(title=items["title"].where(items["title"] != "", items["item_id"]))
