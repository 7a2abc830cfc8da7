"""Source daily: the interaction store that the nights write."""

from pathlib import Path

import pandas as pd

from tests.source_files import interactions, mistake, read


def day(*rows: tuple[str, str, int]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows), columns=["user_id", "item_id", "timestamp"])
    return frame.assign(rating=pd.Series([None] * len(frame), dtype="float64"))


def test_days_are_read_oldest_first_with_their_titles(tmp_path: Path) -> None:
    day(("ann", "tea", 86_400)).to_parquet(tmp_path / "1970-01-02.parquet")
    day(("bob", "milk", 5), ("ann", "milk", 7)).to_parquet(tmp_path / "history-before-1970-01-02.parquet")
    pd.DataFrame({"item_id": ["tea"], "title": ["Tea"], "text": ["Tea. Green"]}).to_parquet(tmp_path / "items.parquet")
    source = read(tmp_path, "daily")
    assert interactions(source) == [("bob", "milk", 5), ("ann", "milk", 7), ("ann", "tea", 86_400)]
    assert source.items.to_dict("records") == [{"item_id": "tea", "title": "Tea", "text": "Tea. Green"}]


def test_a_folder_without_days_is_a_mistake(tmp_path: Path) -> None:
    assert "no file of interactions (YYYY-MM-DD.parquet) in it" in mistake(tmp_path, "daily")
