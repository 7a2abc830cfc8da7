"""Source goodreads: invented records with and without times, and wrong ones."""

from pathlib import Path

import pytest

from tests.source_files import interactions, lines, mistake, read, write

SHELVED = {
    "user_id": "0123456789abcdef0123456789abcdef",
    "book_id": "24375664",
    "review_id": "5cd416f3efc3f944fce4ce2db2290d5e",
    "is_read": True,
    "rating": 4,
    "review_text_incomplete": "",
    "date_added": "Sun Jul 30 07:44:10 -0700 2017",
    "date_updated": "Wed Aug 30 00:00:26 -0700 2017",
    "read_at": "",
    "started_at": "",
}
BOOK = {
    "isbn": "",
    "book_id": "24375664",
    "title": "An Invented Poem",
    "popular_shelves": [
        {"count": "30", "name": "to-read"},
        {"count": "20", "name": "poetry"},
        {"count": "9", "name": "science-fiction"},
    ],
    "authors": [{"author_id": "1", "role": ""}],
    "description": "Verse about nothing.",
}


@pytest.mark.parametrize("ending", ["json", "json__gz"])
def test_goodreads_json_has_times(tmp_path: Path, ending: str) -> None:
    files = {f"goodreads_interactions_poetry__{ending}": lines(SHELVED, SHELVED | {"rating": 0, "book_id": "7"})}
    source = read(write(tmp_path, **files, **{f"goodreads_books_poetry__{ending}": lines(BOOK)}), "goodreads")
    assert interactions(source) == [
        (SHELVED["user_id"], "24375664", 4.0, 1501425850),
        (SHELVED["user_id"], "7", 0.0, 1501425850),
    ]
    text = "An Invented Poem. poetry, science fiction. Verse about nothing."
    assert source.items.to_dict("records") == [{"item_id": "24375664", "title": "An Invented Poem", "text": text}]


def test_goodreads_csv_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = b"user_id,book_id,is_read,rating,is_reviewed\n0,948,1,5,0\n0,947,1,4,1\n"
    books = b"book_id_csv,book_id\n947,9\n948,24375664\n"
    files = {"goodreads_interactions__csv": rows, "book_id_map__csv": books, "goodreads_books__json__gz": lines(BOOK)}
    folder = write(tmp_path, **files)
    source = read(folder, "goodreads")
    assert interactions(source) == [("0", "24375664", 5.0), ("0", "9", 4.0)]
    assert source.items["item_id"].tolist() == ["24375664"]
    assert "has no times; the order of a history is that of the file" in caplog.text
    message = mistake(folder, "goodreads", split="chronological")
    assert "goodreads_interactions_GENRE.json.gz has them, or set split to leave_one_out" in message
    (folder / "book_id_map.csv").write_bytes(b"book_id_csv,book_id\n947,9\n")
    assert "book_id '948' is not in book_id_map.csv" in mistake(folder, "goodreads")
    (folder / "book_id_map.csv").unlink()
    assert "book_id_map.csv: no such file; set prepare_data.path, or get Goodreads" in mistake(folder, "goodreads")


def test_goodreads_with_a_time_that_is_none(tmp_path: Path) -> None:
    wrong = lines(SHELVED, SHELVED | {"date_added": "Sun Jul 30 07:44:10 -0700 0017"})
    said = "line 2: date_added 'Sun Jul 30 07:44:10 -0700 0017' is not a time from 1990 to 2099 written as %a %b %d"
    files = {"goodreads_interactions_poetry__json": wrong, "goodreads_books_poetry__json": lines(BOOK)}
    assert said in mistake(write(tmp_path, **files), "goodreads")
