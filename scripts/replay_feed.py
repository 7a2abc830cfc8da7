"""Turn the embedded MovieLens data into a feed, as if its last days had just come in.

    python -m scripts.replay_feed .atspeed/feeds/ml-latest-small-2016 --days 60

All times are shifted by the same whole number of days, so that the last interactions fall on --last-day. Each of the
last --days days becomes a file YYYY-MM-DD.parquet (days without interactions have none). Everything older becomes
history-before-YYYY-MM-DD.parquet, which the first night takes over, and the movies become items.parquet.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from atspeed_core.data.partitions import DAY_SECONDS, ITEMS, day_start, days_of, history_name
from atspeed_core.data.reading import read_source
from atspeed_core.errors import UserError
from atspeed_core.files import replacing
from atspeed_core.progress import track
from atspeed_core.settings import PrepareData
from tasks.stage import exit_codes, set_up_logging

SOURCE = Path("data/raw/ml-latest-small-2016")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


# Only dataset, source and path matter: reading filters and splits nothing.
MOVIELENS = PrepareData(
    dataset="replay",
    source="movielens",
    path="",
    rating_threshold=None,
    k_core=1,
    duplicates="all",
    split="leave_one_out",
    max_history=1,
    sample=None,
    seed=0,
)


@app.command()
def main(
    feed: Annotated[Path, typer.Argument(help="Folder to write; must be empty or absent.")],
    days: Annotated[int, typer.Option(min=1, help="Number of days with a file of their own.")] = 60,
    last_day: Annotated[str | None, typer.Option(help="Last day, YYYY-MM-DD; default: yesterday (UTC).")] = None,
    source: Annotated[Path, typer.Option(help="Folder with MovieLens ratings and movies.")] = SOURCE,
) -> None:
    """Write the MovieLens data as a feed of days."""
    set_up_logging("replay_feed")
    with exit_codes():
        last = _date(last_day) if last_day else (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
        tables = read_source(MOVIELENS.model_copy(update={"path": str(source)}))
        interactions = shifted(tables.interactions, last)
        if feed.is_dir() and any(feed.iterdir()):
            raise UserError(f"{feed}: not empty; name a new folder, or remove this one")
        with replacing(feed) as folder:
            folder.mkdir()
            num_files = write_days(interactions, folder, first_day=day_start(last) - (days - 1) * DAY_SECONDS)
            tables.items.to_parquet(folder / ITEMS, index=False)
        print(f"{feed}: {len(interactions)} interactions in {num_files} files up to {last}")


def shifted(interactions: pd.DataFrame, last_day: str) -> pd.DataFrame:
    """In time order, shifted by whole days so that the last interaction falls on `last_day`."""
    ordered = interactions.sort_values("timestamp", kind="stable")
    last = int(ordered["timestamp"].iloc[-1]) // DAY_SECONDS * DAY_SECONDS
    ordered = ordered.astype({"user_id": "str", "item_id": "str"})
    return ordered.assign(timestamp=ordered["timestamp"] + day_start(last_day) - last)


def write_days(interactions: pd.DataFrame, folder: Path, first_day: int) -> int:
    """Write a file for each day from `first_day` (unix seconds) on and one for what is older; returns how many."""
    older = interactions["timestamp"] < first_day
    before = str(days_of(pd.Series([first_day]))[0])
    names = days_of(interactions["timestamp"]).mask(older, history_name(before))
    groups = interactions.groupby(names)
    for name, own in track(groups, "writing days", total=groups.ngroups):
        own.to_parquet(folder / f"{name}.parquet", index=False)
    return int(groups.ngroups)


def _date(text: str) -> str:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date().isoformat()
    except ValueError:
        raise UserError(f"--last-day: {text!r} is no date; write YYYY-MM-DD") from None


if __name__ == "__main__":
    app()
