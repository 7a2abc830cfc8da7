"""Records a line: JSON or Python's notation; what breaks is named by file and line, and nothing in a file is run."""

import gzip
from pathlib import Path

import pytest

from atspeed_core.data.records import first_record, read_records
from atspeed_core.errors import UserError


def rows(path: Path, fields: list[str]) -> list[tuple[object, ...]]:
    return [row for frame in read_records(path, fields) for row in frame.itertuples(name=None)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    ['{"a": 1, "b": [2], "c": null}\n\n{"b": "é"}\n', "{'a': 1, 'b': [2], 'c': None}\n\n{u'b': u'\\xe9'}\n"],
    ids=["json", "python"],
)
def test_wanted_fields_of_each_record_with_its_line(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "a.json", content)
    assert rows(path, ["b", "c"]) == [(1, [2], None), (3, "é", None)]
    assert first_record(path) == {"a": 1, "b": [2], "c": None}
    zipped = write(tmp_path / "named_anyhow", gzip.compress(content.encode()))
    assert rows(zipped, ["a"]) == [(1, 1), (3, None)]


def test_what_only_the_slow_parser_takes_is_taken(tmp_path: Path) -> None:
    """A byte order mark, and half of a surrogate pair in a text that nobody wants."""
    path = write(tmp_path / "a.json", b'\xef\xbb\xbf{"a": 1}\n{"a": 2, "text": "\\ud83d"}\n')
    assert rows(path, ["a"]) == [(1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n{"a": \n', "line 2: not a record (Expecting value"),
        ('{"a": 1}\n{"a": 2}\n{"a": "unfinis', "line 3: not a record (Unterminated string"),
        ("{'a': 1}\n{'a': print(1)}\n", "line 2: not a record (malformed node or string"),
        ("{'a': 1}\n{'a': \n", "line 2: not a record ('{' was never closed"),
        ('{"a": 1}\n{"a": "\udcff"}\n', "line 2: not a record ('utf-8' codec can't decode"),
        ("[" * 100_000 + "\n", "line 1: not a record"),
        ('[{"a": 1}]\n', "line 1: a list; a file with one {...} per line is expected"),
        ("a,b\n1,2\n", "line 1: not a record"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: str, said: str) -> None:
    path = write(tmp_path / "a.json", content.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as error:
        rows(path, ["a"])
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:90] + b"?" * 9 + data[99:]])
def test_a_damaged_gzip_is_told_with_the_line(tmp_path: Path, damage: object) -> None:
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % (i * i) for i in range(9999)))
    path = write(tmp_path / "a.json.gz", damage(whole))  # type: ignore[operator]
    with pytest.raises(UserError, match=r"a\.json\.gz: line \d+: (breaks off or is damaged here|not a record)"):
        rows(path, ["a"])


def test_no_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; set prepare_data\.path"):
        rows(tmp_path / "a.json", ["a"])
    with pytest.raises(UserError, match="the file is empty"):
        first_record(write(tmp_path / "a.json", ""))


def test_a_line_without_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atspeed_core.data.records.MAX_LINE_BYTES", 1000)
    with pytest.raises(UserError, match="line 2 is longer than 64 MiB; one record per line is expected"):
        rows(write(tmp_path / "a.json", '{"a": 1}\n{"a": "' + "x" * 5000), ["a"])
