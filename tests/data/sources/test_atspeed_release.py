"""Source atspeed_release: the three published parts."""

from pathlib import Path

import numpy as np

from tests.source_files import mistake, read, write


def test_atspeed_release(tmp_path: Path) -> None:
    parts = {"training": {0: [5, 6], 1: [5, 5]}, "validation": {0: [7], 1: []}, "testing": {0: [], 1: [8, 9]}}
    for name, lists in parts.items():
        np.save(tmp_path / f"{name}_dict.npy", np.array(lists, dtype=object), allow_pickle=True)
    write(tmp_path, items__tsv="item_id\ttitle\n5\tCream\n")
    source = read(tmp_path, "atspeed_release", items_path=str(tmp_path / "items.tsv"))
    assert [tuple(row) for row in source.interactions.itertuples(index=False)] == [
        *(("0", "5", "train"), ("0", "6", "train"), ("1", "5", "train"), ("1", "5", "train")),
        *(("0", "7", "valid"), ("1", "8", "test"), ("1", "9", "test")),
    ]
    assert source.items.to_dict("records") == [{"item_id": "5", "title": "Cream", "text": "Cream"}]
    (tmp_path / "testing_dict.npy").unlink()
    assert "testing_dict.npy: no such file" in mistake(tmp_path, "atspeed_release")
