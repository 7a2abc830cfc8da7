"""Every unreadable file gives one clear line; line and row numbers are those of the file."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from atspeed_core.data.tables import read_delimited, read_parquet, require_columns
from atspeed_core.errors import UserError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_fields_are_strings_and_the_index_is_the_line(tmp_path: Path) -> None:
    frame = read_delimited(write(tmp_path / "a.csv", "user,item\n007,NA\n\n8,x\n"), ",")
    assert frame.to_dict("index") == {2: {"user": "007", "item": "NA"}, 4: {"user": "8", "item": "x"}}
    assert frame.index.name == "line"


def test_without_header_the_first_line_is_line_1(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dat", '1::Léon: "x\n2::B\n'.encode("latin-1"))
    frame = read_delimited(path, "::", ["id", "title"], "latin-1", quoted=False)
    assert frame["title"].to_dict() == {1: 'Léon: "x', 2: "B"}


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    frame = read_delimited(write(tmp_path / "a.tsv.gz", gzip.compress(b"\xef\xbb\xbfid\ttitle\n1\tA\n")), "\t")
    assert frame.to_dict("list") == {"id": ["1"], "title": ["A"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"a,b\n1,2\n1,2,3\n", "line 3"),
        (b"a,b\n1,2,3\n1,2,3\n", "more fields than the first line"),
        (b"a,b\n1,2\n3,caf\xe9\n", "line 3: byte 0xe9 is not UTF-8 text"),
        (b'a,b\n"1,2\n', "not a readable table"),
    ],
)
def test_unreadable_text(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "ratings.csv"
    if content is not None:
        write(path, content)
    with pytest.raises(UserError, match=said) as error:
        read_delimited(path, ",")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b"id\n" + b"".join(b"%d\n" % (i * i) for i in range(9999)))
    with pytest.raises(UserError, match="not a readable table"):
        read_delimited(write(tmp_path / "a.tsv.gz", whole[: len(whole) // 2]), "\t")
    with pytest.raises(UserError, match="not a readable table"):
        read_delimited(write(tmp_path / "b.tsv.gz", b"id\n1\n"), "\t")


def test_parquet_rows_count_from_1_and_times_become_seconds(tmp_path: Path) -> None:
    times = pd.to_datetime(["1970-01-01 00:01:00", "1970-01-01 00:00:01"])
    frame = pd.DataFrame({"naive": times, "aware": times.tz_localize("UTC").tz_convert("Asia/Tokyo")})
    frame.to_parquet(tmp_path / "a.parquet")
    read = read_parquet(tmp_path / "a.parquet")
    assert read.index.tolist() == [1, 2]
    assert read.index.name == "row"
    assert read.to_dict("list") == {"naive": [60, 1], "aware": [60, 1]}


@pytest.mark.parametrize(
    ("share", "said"), [(None, "no such file"), (0.0, "the file is empty"), (0.5, "truncated or not Parquet")]
)
def test_unreadable_parquet(tmp_path: Path, share: float | None, said: str) -> None:
    path = tmp_path / "ratings.parquet"
    if share is not None:
        pd.DataFrame({"a": range(1000)}).to_parquet(path)
        write(path, path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=said) as error:
        read_parquet(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_all_missing_columns_are_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [], "stars": []})
    with pytest.raises(UserError, match=r"f\.csv: no column 'item', 'time' \(found: user, stars\); rename them"):
        require_columns(frame, Path("f.csv"), ["user", "item", "time"], "rename them")
