"""Compact columns hold what the file holds, and reading a large file takes the memory of its columns, not its own."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atspeed_core.data.compact import compacted
from atspeed_core.data.filtering import at_least
from atspeed_core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"user_id": "who", "item_id": "what", "rating": "stars", "timestamp": "when"}
Rows = list[tuple[str, str, float, int]]
texts = st.text("abc", min_size=1, max_size=2)
rows_of_files = st.lists(st.tuples(texts, texts, st.sampled_from([0.5, 4.0, 5.0]), st.integers(0, 2**40)), max_size=30)


def frames(rows: Rows, size: int) -> list[pd.DataFrame]:
    whole = pd.DataFrame(rows, columns=list(NAMES.values()), dtype=object)
    whole.index = pd.RangeIndex(2, 2 + len(whole), name="line")
    return [whole.iloc[start : start + size] for start in range(0, len(whole), size)]


@given(rows=rows_of_files.filter(lambda rows: all(time <= 2**37 for *_, time in rows)), size=st.integers(1, 7))
def test_the_rows_are_those_of_the_file_however_it_is_cut(rows: Rows, size: int) -> None:
    table = compacted(frames(rows, size), Path("a.csv"), NAMES)
    assert [tuple(row) for row in table.frame.itertuples(index=False)] == rows
    assert table.frame.index.tolist() == list(range(2, 2 + len(rows)))
    assert table.frame.index.name == "line"


def test_types_are_small() -> None:
    frame = compacted(frames([("u", "i", 4.0, 9), ("v", "i", 3.5, 10)], 1), Path("a.csv"), NAMES).frame
    assert frame.dtypes.map(str).tolist() == ["category", "category", "float32", "int64"]
    assert frame["user_id"].cat.codes.dtype.itemsize <= 4
    assert frame.index.dtype == np.uint32


def test_a_threshold_between_two_float32_is_no_trap() -> None:
    """4.7 as float32 is a little less than 4.7."""
    frame = compacted(frames([("u", "i", 4.7, 9), ("u", "j", 4.6, 9)], 1), Path("a.csv"), NAMES).frame
    assert at_least(frame, 4.7)["item_id"].tolist() == ["i"]


def test_faults_are_told_up_to_the_part_that_has_them() -> None:
    rows = [("u", "i", 4.0, 9), ("", "i", 4.0, 9), ("u", "", 4.0, 9), ("u", "i", float("nan"), 9)]
    with pytest.raises(UserError) as error:
        compacted(frames(rows, 3), Path("a.csv"), NAMES)
    assert str(error.value) == ("a.csv: line 3: who is empty; line 4: what is empty (2 up to line 4): correct the file")


READ = """
import resource, sys
from atspeed_core.data.reading import read_source
from tests.complete_params import PrepareData

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

for path in sys.argv[1:]:
    before = peak()
    source = read_source(PrepareData(dataset="t", source="amazon", path=path, rating_threshold=4.0))
    print(len(source.interactions), source.interactions["user_id"].nunique(), len(source.items), peak() - before)
"""


def write_reviews(folder: Path, num_reviews: int) -> int:
    """Reviews of 4,000 characters by a tenth as many users, and their products; returns the decompressed bytes."""
    folder.mkdir()
    text, written = "an invented sentence " * 190, 0
    with gzip.open(folder / "Things_5.json.gz", "wb", compresslevel=1) as file:
        for number in range(num_reviews):
            review = {
                "overall": 1.0 + number // 7 % 5,
                "verified": True,
                "reviewerID": f"A{number // 10:013}",
                "asin": f"B{number * 7919 % 1000:09}",
                "reviewText": f"{number} {text}",
                "unixReviewTime": 1400000000 + number,
            }
            written += file.write(json.dumps(review).encode() + b"\n")
    with gzip.open(folder / "meta_Things.json.gz", "wb", compresslevel=1) as file:
        for number in range(1000):
            meta = {"asin": f"B{number:09}", "title": f"Thing {number}", "description": [text], "category": ["Things"]}
            written += file.write(json.dumps(meta).encode() + b"\n")
    return written


def test_memory_is_bounded_by_the_columns_not_by_the_file(tmp_path: Path) -> None:
    """A quarter of a gigabyte of reviews is read in a tenth of that; the first, small folder pays for the imports."""
    write_reviews(tmp_path / "small", 20_000)
    size = write_reviews(tmp_path / "large", 60_000)
    assert size > 240_000_000
    command = [sys.executable, "-c", READ, str(tmp_path / "small"), str(tmp_path / "large")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    *counts, grown = (int(number) for number in finished.stdout.splitlines()[-1].split())
    assert counts == [60_000, 6_000, 1000]
    assert grown < 24_000_000
