"""Source amazon: invented records in the formats of the three editions, and wrong ones."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.source_files import interactions, lines, mistake, read, write

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
