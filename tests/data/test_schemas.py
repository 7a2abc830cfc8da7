"""All faults are reported at once, with row, field and value; our own tables are checked before they are written."""

from pathlib import Path

import pandas as pd
import pytest
from pandera.errors import SchemaErrors

from atspeed_core.data.schemas import check_prepared, check_tables
from atspeed_core.data.tables import Table
from atspeed_core.errors import UserError

NAMES = {"user_id": "userId", "item_id": "movieId", "rating": "stars", "timestamp": "time"}


def interactions(**columns: list[object]) -> Table:
    frame = pd.DataFrame({"userId": ["1"], "movieId": ["10"], "stars": ["4.5"], "time": ["99"]} | columns)
    frame.index = pd.RangeIndex(2, 2 + len(frame), name="line")
    return Table(frame, Path("ratings.csv"), NAMES)


def items(*ids: str) -> Table:
    index = pd.RangeIndex(1, 1 + len(ids), name="row")
    frame = pd.DataFrame({"movieId": list(ids), "title": "T", "text": "t"}, index=index)
    return Table(frame, Path("movies.parquet"), {"item_id": "movieId", "title": "title", "text": "text"})


def test_good_tables_get_our_names_and_types() -> None:
    checked, known = check_tables([interactions(), items("10")])
    assert checked.to_dict("index") == {2: {"user_id": "1", "item_id": "10", "rating": 4.5, "timestamp": 99}}
    assert checked.dtypes[["rating", "timestamp"]].astype(str).tolist() == ["float64", "int64"]
    assert known["item_id"].tolist() == ["10"]


def test_numbers_of_a_parquet_file_become_string_ids() -> None:
    checked = check_tables([interactions(userId=[7], stars=[3], time=[5.0])])[0]
    assert checked.iloc[0].to_dict() == {"user_id": "7", "item_id": "10", "rating": 3.0, "timestamp": 5}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("userId", "", "line 2: userId is empty"),
        ("userId", "  ", "line 2: userId '  ' is empty"),
        ("movieId", None, "line 2: movieId is empty"),
        ("stars", "four", "line 2: stars 'four' is not a finite number"),
        ("stars", "", "line 2: stars is not a finite number"),
        ("stars", "inf", "line 2: stars 'inf' is not a finite number"),
        ("stars", float("nan"), "line 2: stars is not a finite number"),
        ("time", "yesterday", "line 2: time 'yesterday' is not a whole number of unix seconds"),
        ("time", "-1", "line 2: time '-1' is not a whole number of unix seconds"),
        ("time", "1.5", "line 2: time '1.5' is not a whole number of unix seconds"),
        ("time", "1672531200000000", "line 2: time '1672531200000000' is not a whole number of unix seconds"),
    ],
)
def test_each_fault_names_file_row_field_and_value(column: str, value: object, said: str) -> None:
    with pytest.raises(UserError) as error:
        check_tables([interactions(**{column: [value]})])
    assert str(error.value) == f"ratings.csv: {said} (1 in all): correct the file"


def test_faults_of_all_columns_and_files_come_in_one_line() -> None:
    bad = interactions(userId=["1", ""], movieId=["1", "2"], stars=["x", "3"], time=["1", "?"])
    with pytest.raises(UserError) as error:
        check_tables([bad, items("10", "11", "10")])
    message = str(error.value)
    assert "line 2: stars 'x'" in message
    assert "line 3: userId is empty" in message
    assert "line 3: time '?'" in message
    assert "movies.parquet: row 3: movieId '10' is listed twice" in message
    assert "(4 in all)" in message
    assert "\n" not in message


def test_many_faults_are_counted_not_listed() -> None:
    with pytest.raises(UserError) as error:
        check_tables([interactions(**{name: ["x"] * 25 for name in NAMES.values()})])
    message = str(error.value)
    assert message.count("'x' is not") == 10
    assert "... and 40 more (50 in all)" in message


def prepared() -> dict[str, pd.DataFrame]:
    example = {"user_id": ["u"], "history": [["a"]], "targets": [["b", "a"]], "target_timestamps": [[1, 2]]}
    return {
        "train": pd.DataFrame({"user_id": ["u"], "item_ids": [["a"]], "timestamps": [[0]]}),
        "valid": pd.DataFrame(example),
        "test": pd.DataFrame(example),
        "items": pd.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"], "text": ["", "b"]}),
    }


def test_good_outputs_pass_with_and_without_times() -> None:
    tables = prepared()
    check_prepared(tables)
    tables["test"]["target_timestamps"] = None
    check_prepared(tables)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("train", "user_id", ""),
        ("train", "item_ids", []),
        ("train", "item_ids", ["unknown"]),
        ("valid", "history", []),
        ("test", "targets", ["unknown", "a"]),
        ("test", "target_timestamps", [1]),
        ("test", "target_timestamps", [2, 1]),
    ],
)
def test_bad_outputs_are_a_defect(table: str, column: str, value: object) -> None:
    tables = prepared()
    tables[table].at[0, column] = value
    with pytest.raises(SchemaErrors):
        check_prepared(tables)


def test_an_item_twice_in_the_output_is_a_defect() -> None:
    tables = prepared()
    tables["items"]["item_id"] = "a"
    with pytest.raises(SchemaErrors):
        check_prepared(tables)
