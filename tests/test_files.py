"""Outputs appear whole or not at all."""

from pathlib import Path

import pytest

from atspeed_core.files import read_json, replacing, write_json


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    for content in ("one", "two"):
        with replacing(path) as temporary:
            temporary.write_text(content)
    assert path.read_text() == "two"
    assert only(path.parent) == ["a.txt"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with replacing(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert only(tmp_path / "model") == ["new"]
    assert only(tmp_path) == ["model"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_what_was_there(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.mkdir() if kind == "folder" else temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "before"
    assert only(tmp_path) == ["out"]


def test_what_a_killed_process_of_the_same_number_left_does_no_harm(tmp_path: Path) -> None:
    with replacing(tmp_path / "out") as temporary:
        name = temporary.name
        temporary.touch()
    (tmp_path / name).mkdir()
    (tmp_path / name / "left").touch()
    with replacing(tmp_path / "out") as temporary:
        temporary.write_text("whole")
    assert only(tmp_path) == ["out"]


def test_json_keeps_what_it_is_given(tmp_path: Path) -> None:
    value = {"title": "Amélie", "ks": [1, 3], "recall": 0.25}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "Amélie" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_that_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert only(tmp_path) == []
