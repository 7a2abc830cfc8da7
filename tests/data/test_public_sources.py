"""Amazon, Goodreads, Steam and Yelp: invented records in the true formats, and what is said of wrong ones."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from atspeed_core.data.reading import SourceTables, read_source
from atspeed_core.errors import UserError
from tests.complete_params import PrepareData

REVIEW_2014 = {
    "reviewerID": "A1B2C3D4E5F6G7",
    "asin": "B00INVENT1",
    "reviewerName": "Some One",
    "helpful": [2, 3],
    "reviewText": 'It smells of "invented" roses.',
    "overall": 5.0,
    "summary": "Roses",
    "unixReviewTime": 1389657600,
    "reviewTime": "01 14, 2014",
}
META_2014 = (
    "{'asin': 'B00INVENT1', 'title': \"Rose O'Nowhere Soap &amp; Tin\", 'price': 3.5, 'imUrl': 'http://x/1.jpg', "
    "'related': {'also_bought': ['B00INVENT2']}, 'salesRank': {'Beauty': 12}, 'brand': 'Nowhere', "
    "'categories': [['Beauty', 'Bath', 'Soap']], 'description': 'A soap.'}\n"
)
REVIEW_2018 = {
    "overall": 4.0,
    "verified": True,
    "reviewTime": "10 17, 2015",
    "reviewerID": "AINVENTED2018",
    "asin": "0700000018",
    "style": {"Platform:": " Some Console"},
    "reviewerName": "Some Two",
    "reviewText": "Plays.",
    "summary": "Plays",
    "unixReviewTime": 1445040000,
}
META_2018 = {
    "category": ["Video Games", "Consoles", "Games</span></span></span>"],
    "tech1": "",
    "description": ["First line.<br>", "Second line."],
    "title": "Invented Racing",
    "also_buy": [],
    "brand": "Nobody Games",
    "feature": ["Two wheels"],
    "rank": ">#1 in Video Games",
    "main_cat": "Video Games",
    "asin": "0700000018",
}
REVIEW_2023 = {
    "rating": 5.0,
    "title": "Good",
    "text": "Good indeed.",
    "images": [],
    "asin": "B0CHILDREN",
    "parent_asin": "B0PARENT00",
    "user_id": "AINVENTEDINVENTEDINVENTED23Q",
    "timestamp": 1588687728923,
    "helpful_vote": 0,
    "verified_purchase": True,
}
META_2023 = {
    "main_category": "All Beauty",
    "title": "Invented Cream",
    "average_rating": 4.8,
    "rating_number": 10,
    "features": ["Soft"],
    "description": [],
    "price": None,
    "images": [],
    "videos": [],
    "store": "Nobody",
    "categories": ["Beauty", "Skin"],
    "details": {"Brand": "Nobody"},
    "parent_asin": "B0PARENT00",
    "bought_together": None,
}
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
STEAM_REVIEW = (
    "{u'username': u'Nobody\\u2019s \"Twin\"', u'hours': 0.1, u'products': 41, u'product_id': u'700001', "
    "u'page_order': 0, u'date': u'2017-12-17', u'text': u\"it's a game\", u'early_access': False, u'page': 1}\n"
)
STEAM_GAME = (
    "{u'publisher': u'Nobody', u'genres': [u'Action', u'Indie'], u'app_name': u'Invented Trip', u'title': "
    "u'Invented Trip', u'url': u'http://x', u'release_date': u'2018-01-04', u'tags': [u'Space'], u'price': 4.99, "
    "u'specs': [u'Single-player'], u'early_access': False, u'id': u'700001', u'developer': u'Nobody'}\n"
)
YELP_REVIEW = {
    "review_id": "r1",
    "user_id": "u-1",
    "business_id": "b_1",
    "stars": 3.0,
    "useful": 0,
    "funny": 0,
    "cool": 0,
    "text": "A place.",
    "date": "2018-07-07 22:09:11",
}
BUSINESS = {
    "business_id": "b_1",
    "name": "Invented Diner",
    "city": "Nowhere",
    "categories": "Diners, Food",
    "stars": 4.5,
}


def lines(*records: dict[str, Any] | str) -> bytes:
    return "".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in records).encode()


def write(folder: Path, **files: bytes) -> Path:
    """Files named with "__" for a dot; those that end with gz are gzipped."""
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return folder


def read(path: Path, source: str, **settings: Any) -> SourceTables:
    return read_source(PrepareData(dataset="t", source=source, path=str(path), **({"k_core": 1} | settings)))


def mistake(path: Path, source: str, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        read(path, source, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def interactions(source: SourceTables) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in source.interactions.itertuples(index=False)]


def test_amazon_2014_with_loose_metadata(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = REVIEW_2014 | {"asin": "B00INVENT2", "overall": 2.0}
    files = {"reviews_Beauty_5__json__gz": lines(REVIEW_2014, other), "meta_Beauty__json__gz": META_2014.encode()}
    with caplog.at_level(logging.INFO):
        source = read(write(tmp_path, **files), "amazon")
    assert interactions(source) == [
        ("A1B2C3D4E5F6G7", "B00INVENT1", 5.0, 1389657600),
        ("A1B2C3D4E5F6G7", "B00INVENT2", 2.0, 1389657600),
    ]
    title = "Rose O'Nowhere Soap & Tin"
    text = f"{title}. Beauty, Bath, Soap. Nowhere. A soap."
    assert source.items.to_dict("records") == [{"item_id": "B00INVENT1", "title": title, "text": text}]
    assert "edition 2014, 2 of them" in caplog.text


def test_amazon_2018(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = META_2018 | {"title": "var aPageStart = (new Date()).getTime();", "asin": "0700000019"}
    again = META_2018 | {"title": "The same product again"}
    meta = lines(META_2018, again, script)
    files = {"Video_Games__json__gz": lines(REVIEW_2018, REVIEW_2018 | {"asin": "0700000019"})}
    with caplog.at_level(logging.INFO):
        source = read(write(tmp_path, **files, meta_Video_Games__json__gz=meta), "amazon")
    assert interactions(source)[0] == ("AINVENTED2018", "0700000018", 4.0, 1445040000)
    texts = "Video Games, Consoles, Games. Nobody Games. Two wheels. First line., Second line."
    assert source.items.to_dict("records") == [
        {"item_id": "0700000018", "title": "Invented Racing", "text": f"Invented Racing. {texts}"},
        {"item_id": "0700000019", "title": "", "text": texts},
    ]
    assert "edition 2018" in caplog.text


def test_amazon_2023_counts_milliseconds_and_parents(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"All_Beauty__jsonl__gz": lines(REVIEW_2023), "meta_All_Beauty__jsonl": lines(META_2023)}
    with caplog.at_level(logging.INFO):
        source = read(write(tmp_path, **files) / "All_Beauty.jsonl.gz", "amazon")
    assert interactions(source) == [("AINVENTEDINVENTEDINVENTED23Q", "B0PARENT00", 5.0, 1588687728)]
    assert source.items["text"].tolist() == ["Invented Cream. Beauty, Skin. Nobody. Soft"]
    assert "edition 2023" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        (
            "ratings_Beauty",
            "AUSERUSERUSER1,0700000018,5.0,1369699200\n",
            ("AUSERUSERUSER1", "0700000018", 5.0, 1369699200),
        ),
        ("Beauty", "0700000018,AUSERUSERUSER1,5.0,1369699200\n", ("AUSERUSERUSER1", "0700000018", 5.0, 1369699200)),
        (
            "Beauty",
            "user_id,parent_asin,rating,timestamp,history\nAUSER,B0PARENT00,4.0,1588687728923,\n",
            ("AUSER", "B0PARENT00", 4.0, 1588687728),
        ),
    ],
    ids=["2014 user first", "2018 item first", "2023 with a header"],
)
def test_amazon_ratings_only(tmp_path: Path, name: str, content: str, row: tuple[Any, ...]) -> None:
    files = {f"{name}__csv": content.encode(), "meta_Beauty__json__gz": lines(META_2018)}
    assert interactions(read(write(tmp_path, **files), "amazon")) == [row]


def test_only_items_that_may_remain_are_described(tmp_path: Path) -> None:
    """Threshold and k-core are known before the metadata are read, which would not fit into memory else."""
    reviews = [
        REVIEW_2014 | {"asin": asin, "overall": stars} for asin, stars in [("B1", 5.0), ("B1", 4.0), ("B2", 5.0)]
    ]
    meta = "".join(META_2014.replace("B00INVENT1", asin) for asin in ("B1", "B2", "B3"))
    files = {"reviews_Beauty__json": lines(*reviews), "meta_Beauty__json": meta.encode()}
    folder = write(tmp_path, **files)
    assert read(folder, "amazon", k_core=2).items["item_id"].tolist() == ["B1"]
    assert read(folder, "amazon", rating_threshold=4.5).items["item_id"].tolist() == ["B1", "B2"]
    assert read(folder, "amazon", rating_threshold=4.5, k_core=2).items.empty


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no reviews (*.json.gz) in it; set prepare_data.path, or get Amazon 2014: reviews_CATEGORY_5.json.gz"),
        ({"reviews_A__json": b"", "reviews_B__json": b""}, "several files of reviews (reviews_A.json, reviews_B.json)"),
        ({"reviews_A_5__json": lines(REVIEW_2014)}, "meta_A.json.gz: no such file; set prepare_data.path, or get"),
    ],
)
def test_absent_amazon_files(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    assert said in mistake(write(tmp_path, **files), "amazon")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"A__csv__gz": b"ann,soap,5.0,1369699200\n" * 99}, "A.csv.gz: not a readable table: Compressed file ended"),
        ({"reviews_A__json": b""}, "reviews_A.json: the file is empty"),
        ({"reviews_A__json": lines(META_2018)}, "line 1: fields category, tech1, description"),
        ({"A__csv": b"ann,soap,5.0,1369699200\n"}, "A.csv: line 1: no product number in the first two fields"),
        (
            {"A__json": lines(REVIEW_2018, REVIEW_2018 | {"unixReviewTime": 1445040000000})},
            "line 2: unixReviewTime '1445040000000' is not a time from 1990 to 2099 in unix seconds",
        ),
        (
            {"A__json": lines(REVIEW_2023 | {"timestamp": 1588687728})},
            "line 1: timestamp '1588687728' is not a time from 1990 to 2099 in unix milliseconds",
        ),
        (
            {"A__json": lines(REVIEW_2018, {"asin": "0700000018", "overall": 1.0, "unixReviewTime": 1445040000})},
            "line 2: reviewerID is empty",
        ),
    ],
)
def test_wrong_amazon_files(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    folder = write(tmp_path, **files, meta_A__json=META_2014.encode())
    for zipped in folder.glob("*.gz"):  # broken off
        zipped.write_bytes(zipped.read_bytes()[:-20])
    assert said in mistake(folder, "amazon")


def test_what_is_missing_is_told_with_address_and_terms(tmp_path: Path) -> None:
    message = mistake(tmp_path / "nowhere", "amazon")
    assert message.startswith(f"{tmp_path / 'nowhere'}: no reviews")
    for address in (
        "~jmcauley/datasets/amazon/links.html",
        "nijianmo.github.io/amazon",
        "amazon-reviews-2023.github.io",
    ):
        assert address in message
    assert "for research, with citation" in message
    for source, address in {
        "goodreads": "datasets/goodreads.html",
        "steam": "datasets.html#steam_data",
        "yelp": "business.yelp.com/data/resources/open-dataset",
    }.items():
        assert address in mistake(tmp_path, source)


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


def test_steam(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nameless = STEAM_REVIEW.replace("u'Nobody\\u2019s \"Twin\"'", "u' '")
    games = STEAM_GAME + STEAM_GAME.replace("Invented Trip", "Again") + STEAM_GAME.replace("u'id': u'700001', ", "")
    files = {"steam_reviews__json__gz": lines(STEAM_REVIEW, nameless), "steam_games__json__gz": games.encode()}
    source = read(write(tmp_path, **files), "steam")
    assert interactions(source) == [('Nobody\u2019s "Twin"', "700001", 1513468800)]
    text = "Invented Trip. Action, Indie. Space. Nobody"
    assert source.items.to_dict("records") == [{"item_id": "700001", "title": "Invented Trip", "text": text}]
    assert "1 reviews without a user name are left out" in caplog.text


def test_yelp(tmp_path: Path) -> None:
    files = {"review": lines(YELP_REVIEW), "business": lines(BUSINESS)}
    folder = write(tmp_path, **{f"yelp_academic_dataset_{name}__json": content for name, content in files.items()})
    source = read(folder, "yelp")
    assert interactions(source) == [("u-1", "b_1", 3.0, 1531001351)]
    assert source.items["text"].tolist() == ["Invented Diner. Diners, Food. Nowhere"]
