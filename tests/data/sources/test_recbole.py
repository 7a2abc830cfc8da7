"""Source recbole: atomic files with and without items, ratings and times, and wrong ones."""

from pathlib import Path

import pytest

from tests.source_files import mistake, read, write


def test_recbole(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    interactions = header + 'u1\t"i1\t4\t8.86e8\nu2\ti2\t3\t891717742\n'
    header = "item_id:token\trelease_year:token\tmovie_title:token_seq\tclass:token_seq\tprice:float\n"
    items = header + "i2\t1995\tToy Story\tAnimation Comedy\t1\n"
    source = read(write(tmp_path, ml__inter=interactions, ml__item=items), "recbole")
    assert source.interactions["item_id"].tolist() == ['"i1', "i2"]
    assert source.interactions["timestamp"].tolist() == [886000000, 891717742]
    assert source.items.to_dict("records") == [
        {"item_id": "i2", "title": "Toy Story", "text": "Toy Story. 1995. Animation Comedy"}
    ]


def test_recbole_needs_neither_items_nor_ratings(tmp_path: Path) -> None:
    source = read(write(tmp_path, a__inter="item_id:token\tuser_id:token\ni\tu\n"), "recbole")
    assert source.interactions.to_dict("records") == [{"user_id": "u", "item_id": "i"}]
    assert source.items.empty


def test_recbole_fields_of_other_names(tmp_path: Path) -> None:
    """Steam calls the item product_id in .inter and id in .item; Yelp has stars and date."""
    header = "user_id:token\tplay_hours:float\tproducts:float\tproduct_id:token\ttimestamp:float\n"
    items = (
        "app_name:token\tdeveloper:token\tid:token\tprice:float\ttags:token_seq\nSpace Trip\tAda\t70\t9.99\tspace 4X\n"
    )
    folder = write(tmp_path, steam__inter=header + "ann\t0.5\t3\t70\t1513468800.0\n", steam__item=items)
    source = read(folder, "recbole", columns={"item": "product_id"})
    assert source.interactions.to_dict("records") == [{"user_id": "ann", "item_id": "70", "timestamp": 1513468800}]
    assert source.items.to_dict("records") == [
        {"item_id": "70", "title": "Space Trip", "text": "Space Trip. Ada. space 4X"}
    ]
    (tmp_path / "steam.item").unlink()
    (tmp_path / "steam.inter").write_text(
        "review_id:token\tuser_id:token\tbusiness_id:token\tstars:float\tdate:float\nr\tu\tb\t4\t9\n"
    )
    columns = {"item": "business_id", "rating": "stars", "timestamp": "date"}
    source = read(folder, "recbole", columns=columns)
    assert source.interactions.to_dict("records") == [{"user_id": "u", "item_id": "b", "rating": 4.0, "timestamp": 9}]
    assert "no column 'when' (found: review_id, " in mistake(folder, "recbole", columns=columns | {"timestamp": "when"})
    assert "set prepare_data.columns to the fields of user and item" in mistake(folder, "recbole")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no interactions (*.inter) in it; set prepare_data.path, or get RecBole"),
        ({"a__inter": "", "b__inter": ""}, "several files of interactions (a.inter, b.inter); name one"),
        ({"a__inter": ""}, "a.inter: the file is empty"),
        ({"a__inter": "user_id:token\titem_id\nu\ti\n"}, "line 1: fields without a known type: item_id"),
        ({"a__inter": "user_id:token\titem_id:int\nu\ti\n"}, "line 1: fields without a known type: item_id:int"),
        ({"a__inter": "uid:token\titem_id:token\nu\ti\n"}, "no column 'user_id' (found: uid, item_id)"),
        ({"a__inter": "user_id:token\titem_id:token\nu\ti\n", "a__item": "no:token\ni\n"}, "no column 'item_id'"),
    ],
)
def test_wrong_recbole_files(tmp_path: Path, files: dict[str, str], said: str) -> None:
    assert said in mistake(write(tmp_path, **files), "recbole")
