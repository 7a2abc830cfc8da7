"""Source yelp: invented records."""

from pathlib import Path

from tests.source_files import interactions, lines, read, write

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


def test_yelp(tmp_path: Path) -> None:
    files = {"review": lines(YELP_REVIEW), "business": lines(BUSINESS)}
    folder = write(tmp_path, **{f"yelp_academic_dataset_{name}__json": content for name, content in files.items()})
    source = read(folder, "yelp")
    assert interactions(source) == [("u-1", "b_1", 3.0, 1531001351)]
    assert source.items["text"].tolist() == ["Invented Diner. Diners, Food. Nowhere"]
