"""Source table: columns and items as the settings name them."""

from pathlib import Path

import pandas as pd

from tests.source_files import mistake, read, write


def test_table_with_named_columns_and_items(tmp_path: Path) -> None:
    goods = 'what\tname\tkind\nx\t5" disc\t\ny\tB\tbook\n'
    write(tmp_path, buys__csv="when,who,what\n5,ann,x\n4,bob,y\n", goods__tsv=goods)
    columns = {"user": "who", "item": "what", "rating": None, "timestamp": "when", "title": "name", "text": ["kind"]}
    source = read(tmp_path / "buys.csv", "table", items_path=str(tmp_path / "goods.tsv"), columns=columns)
    assert source.interactions.to_dict("records") == [
        {"user_id": "ann", "item_id": "x", "timestamp": 5},
        {"user_id": "bob", "item_id": "y", "timestamp": 4},
    ]
    assert source.items.to_dict("list") == {
        "item_id": ["x", "y"],
        "title": ['5" disc', "B"],
        "text": ['5" disc', "B. book"],
    }


def test_table_of_parquet_with_times_and_missing_ids(tmp_path: Path) -> None:
    times = pd.to_datetime(["2020-01-01", "2020-01-02"])
    frame = pd.DataFrame({"user_id": [1, 2], "item_id": ["a", None], "rating": [1.0, 2.0], "timestamp": times})
    frame.to_parquet(tmp_path / "a.parquet")
    message = mistake(tmp_path / "a.parquet", "table")
    assert message == f"{tmp_path / 'a.parquet'}: row 2: item_id is empty (1 in all): correct the file"
    frame.iloc[:1].to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "table").interactions["timestamp"].tolist() == [1577836800]


def test_table_without_the_default_columns_says_what_to_set(tmp_path: Path) -> None:
    path = write(tmp_path, a__csv="user_id,item_id\n1,2\n") / "a.csv"
    message = mistake(path, "table")
    assert "no column 'rating', 'timestamp' (found: user_id, item_id)" in message
    assert "set prepare_data.columns (rating and timestamp may be null)" in message
