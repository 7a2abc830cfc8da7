"""Every source, read from files of its true format."""

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from atspeed_core.data.reading import SourceTables, read_source
from atspeed_core.data.sources import SOURCES, absent
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData as PrepareDataSection
from tests.complete_params import PrepareData

DOCS = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"
RATINGS_CSV = "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,3.0,1260759179\n2,31,4.0,835355493\n"
MOVIES_CSV = 'movieId,title,genres\n31,Dangerous Minds (1995),Drama\n1029,"Dumbo, The (1941)",Animation|Children\n'


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def read(path: Path, source: str, **settings: Any) -> SourceTables:
    return read_source(settings_of(path, source, **settings))


def settings_of(path: Path, source: str, **settings: Any) -> PrepareDataSection:
    split = "published" if source == "atspeed_release" else "leave_one_out"
    return PrepareData(dataset="t", source=source, path=str(path), **({"split": split} | settings))


def mistake(path: Path, source: str, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        read(path, source, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_movielens_csv(tmp_path: Path) -> None:
    source = read(write(tmp_path, ratings__csv=RATINGS_CSV, movies__csv=MOVIES_CSV), "movielens")
    assert source.interactions.to_dict("list") == {
        "user_id": ["1", "1", "2"],
        "item_id": ["31", "1029", "31"],
        "rating": [2.5, 3.0, 4.0],
        "timestamp": [1260759144, 1260759179, 835355493],
    }
    assert source.items.to_dict("list") == {
        "item_id": ["31", "1029"],
        "title": ["Dangerous Minds (1995)", "Dumbo, The (1941)"],
        "text": ["Dangerous Minds (1995). Drama", "Dumbo, The (1941). Animation, Children"],
    }


def test_movielens_1m_is_latin_1_without_header_or_quoting(tmp_path: Path) -> None:
    movies = '1::Misérables, Les (1995)::Drama|Musical\n2::"Odd" Title (1990)::Drama\n'.encode("latin-1")
    folder = write(tmp_path, ratings__dat="1::2::5::978300760\n6040::1::3::956703932\n", movies__dat=movies)
    source = read(folder, "movielens")
    assert source.interactions["user_id"].tolist() == ["1", "6040"]
    assert source.interactions["timestamp"].tolist() == [978300760, 956703932]
    assert source.items["title"].tolist() == ["Misérables, Les (1995)", '"Odd" Title (1990)']


def test_movielens_10m_is_utf_8(tmp_path: Path) -> None:
    folder = write(tmp_path, ratings__dat="1::2::4.5::838985046\n", movies__dat="2::Léon: Two (1995)::Crime|Drama\n")
    source = read(folder, "movielens")
    assert source.interactions.to_dict("records") == [
        {"user_id": "1", "item_id": "2", "rating": 4.5, "timestamp": 838985046}
    ]
    assert source.items["text"].tolist() == ["Léon: Two (1995). Crime, Drama"]


def test_movielens_100k_has_tabs_and_genre_flags_in_latin_1(tmp_path: Path) -> None:
    flags = ["0"] * 19
    flags[8] = flags[12] = "1"
    address = "http://us.imdb.com/M/title-exact?x"
    rows = f"7|Misérables, Les (1995)|01-Jan-1995||{address}|{'|'.join(flags)}\n8|unknown||||1{'|0' * 18}\n"
    folder = write(tmp_path, u__data="196\t7\t3\t881250949\n186\t8\t5\t891717742\n", u__item=rows.encode("latin-1"))
    source = read(folder, "movielens")
    assert source.interactions["item_id"].tolist() == ["7", "8"]
    assert source.interactions["timestamp"].tolist() == [881250949, 891717742]
    assert source.items["text"].tolist() == ["Misérables, Les (1995). Drama, Musical", "unknown"]


def test_a_dat_file_of_too_few_fields_is_named_by_line(tmp_path: Path) -> None:
    folder = write(tmp_path, ratings__dat="1::2::4.5::838985046\n1::3::5\n", movies__dat="2::A::Drama\n")
    assert "ratings.dat: line 2: timestamp is not a whole number of unix seconds" in mistake(folder, "movielens")


def test_movielens_parquet_without_title_or_genres(tmp_path: Path) -> None:
    ratings = {"userId": [1], "movieId": [7], "rating": np.float32([0.5]), "timestamp": np.int32([9])}
    pd.DataFrame(ratings).to_parquet(tmp_path / "ratings.parquet")
    movies = {"movieId": [7, 8], "title": ["", "B"], "genres": ["Drama", "(no genres listed)"]}
    pd.DataFrame(movies).to_parquet(tmp_path / "movies.parquet")
    source = read(tmp_path, "movielens")
    assert source.interactions.to_dict("records") == [{"user_id": "1", "item_id": "7", "rating": 0.5, "timestamp": 9}]
    assert source.items["text"].tolist() == ["Drama", "B"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rating,timestamp", "stars,timestamp", "no column 'rating' (found: userId, movieId, stars, timestamp)"),
        ("2.5", "good", "line 2: rating 'good' is not a finite number"),
        (RATINGS_CSV, "", "the file is empty"),
        (RATINGS_CSV, "userId,movieId,rating,timestamp\n", "no interactions, only a header"),
        ("1029", "", "line 3: movieId is empty"),
    ],
)
def test_wrong_ratings_are_one_clear_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    message = mistake(write(tmp_path, ratings__csv=RATINGS_CSV.replace(old, new), movies__csv=MOVIES_CSV), "movielens")
    assert message.startswith(f"{tmp_path / 'ratings.csv'}: ")
    assert said in message


def test_movielens_files_that_are_not_there(tmp_path: Path) -> None:
    message = mistake(tmp_path, "movielens")
    assert "no ratings (ratings.parquet, ratings.csv, ratings.dat or u.data) in it" in message
    assert "https://grouplens.org/datasets/movielens/" in message
    message = mistake(write(tmp_path, ratings__csv=RATINGS_CSV), "movielens")
    assert "movies.csv: no such file" in message
    assert "set prepare_data.path to the folder" in mistake(tmp_path / "ratings.csv", "movielens")
    assert "there: no such file or folder" in mistake(tmp_path / "nowhere", "movielens")


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


def test_table_with_named_columns_and_items(tmp_path: Path) -> None:
    goods = 'what\tname\tkind\nx\t5" disc\t\ny\tB\tbook\n'
    write(tmp_path, buys__csv="when,who,what\n5,ann,x\n4,bob,y\n", goods__tsv=goods)
    columns = {"user": "who", "item": "what", "rating": None, "timestamp": "when", "title": "name", "text": ["kind"]}
    source = read(tmp_path / "buys.csv", "table", items_path=str(tmp_path / "goods.tsv"), columns=columns)
    assert source.interactions.to_dict("records") == [
        {"user_id": "ann", "item_id": "x", "timestamp": 5},
        {"user_id": "bob", "item_id": "y", "timestamp": 4},
    ]
    assert source.items.to_dict("list") == {
        "item_id": ["x", "y"],
        "title": ['5" disc', "B"],
        "text": ['5" disc', "B. book"],
    }


def test_table_of_parquet_with_times_and_missing_ids(tmp_path: Path) -> None:
    times = pd.to_datetime(["2020-01-01", "2020-01-02"])
    frame = pd.DataFrame({"user_id": [1, 2], "item_id": ["a", None], "rating": [1.0, 2.0], "timestamp": times})
    frame.to_parquet(tmp_path / "a.parquet")
    message = mistake(tmp_path / "a.parquet", "table")
    assert message == f"{tmp_path / 'a.parquet'}: row 2: item_id is empty (1 in all): correct the file"
    frame.iloc[:1].to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "table").interactions["timestamp"].tolist() == [1577836800]


def test_table_without_the_default_columns_says_what_to_set(tmp_path: Path) -> None:
    path = write(tmp_path, a__csv="user_id,item_id\n1,2\n") / "a.csv"
    message = mistake(path, "table")
    assert "no column 'rating', 'timestamp' (found: user_id, item_id)" in message
    assert "set prepare_data.columns (rating and timestamp may be null)" in message


def test_an_item_listed_twice(tmp_path: Path) -> None:
    folder = write(tmp_path, ratings__csv=RATINGS_CSV, movies__csv=MOVIES_CSV + "31,Again,Drama\n")
    assert "movies.csv: line 4: movieId '31' is listed twice" in mistake(folder, "movielens")


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


@pytest.mark.parametrize("name", SOURCES.names())
def test_a_source_has_the_name_of_its_file(name: str) -> None:
    source = SOURCES.get(name)
    assert source.name == name
    assert set(source.uses) <= set(PrepareDataSection.model_fields)


def test_every_source_has_its_row_in_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8").split("## Sources")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")][1:]
    assert [row[:2] for row in rows] == [[f"`{name}`", source.summary] for name, source in SOURCES.all().items()]
    for row, source in zip(rows, SOURCES.all().values(), strict=True):
        assert re.findall(r"\]\((.*?)\)", " ".join(row[2:])) == [origin.page for origin in source.origins]


def test_a_split_that_does_not_suit_the_source(tmp_path: Path) -> None:
    assert "'atspeed_release' is split already; set split to published" in mistake(
        tmp_path, "atspeed_release", split="leave_one_out"
    )
    assert "'table' has no published split" in mistake(tmp_path, "table", split="published")


def test_what_is_absent_is_named_with_what_to_do(tmp_path: Path) -> None:
    assert absent(settings_of(tmp_path, "yelp")) is None
    assert "not there; set prepare_data.path, or get Yelp: " in str(absent(settings_of(tmp_path / "no", "yelp")))
    assert str(absent(settings_of(tmp_path / "no", "table"))).endswith("not there; set prepare_data.path")


def test_settings_that_a_source_ignores_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path, ratings__csv=RATINGS_CSV, movies__csv=MOVIES_CSV)
    with caplog.at_level(logging.WARNING):
        read(folder, "movielens", k_core=2)
        assert not caplog.records
        read(folder, "movielens", items_path="elsewhere.csv")
    assert caplog.messages == ["prepare_data.items_path is ignored: source movielens does not use it"]
