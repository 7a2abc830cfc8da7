from pathlib import Path

import pandas as pd
import pytest

from atspeed_core.data.sequences import Example, load_examples, load_full_examples, load_train
from atspeed_core.errors import UserError


def write(folder: Path, name: str, **columns: list[object]) -> None:
    pd.DataFrame(columns).to_parquet(folder / f"{name}.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "train", user_id=["a", "b"], item_ids=[["1", "2", "3", "4"], ["5", "6"]])
    write(tmp_path, "valid", user_id=["a"], history=[["3", "4"]], targets=[["7"]])
    write(tmp_path, "test", user_id=["a", "c"], history=[["4", "7"], ["8", "9"]], targets=[["0"], ["1", "2"]])
    return tmp_path


def test_parts_are_read_as_written(folder: Path) -> None:
    assert load_train(folder) == {"a": ["1", "2", "3", "4"], "b": ["5", "6"]}
    assert load_examples(folder, "valid") == [Example("a", ["3", "4"], ["7"])]


def test_full_histories_hold_what_came_before_and_nothing_of_the_held_out_items(folder: Path) -> None:
    assert load_full_examples(folder, "valid") == [Example("a", ["1", "2", "3", "4"], ["7"])]
    assert load_full_examples(folder, "test") == [
        Example("a", ["1", "2", "3", "4", "7"], ["0"]),
        Example("c", ["8", "9"], ["1", "2"]),  # known from this part alone
    ]


def test_missing_and_damaged_files_are_named(folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"train\.parquet: not a readable parquet file"):
        load_train(folder)
    (folder / "test.parquet").unlink()
    with pytest.raises(UserError, match=r"test\.parquet: no such file"):
        load_examples(folder, "test")
