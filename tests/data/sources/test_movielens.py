"""Source movielens: files of every edition, and wrong ones."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.source_files import mistake, read, write

RATINGS_CSV = "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,3.0,1260759179\n2,31,4.0,835355493\n"
MOVIES_CSV = 'movieId,title,genres\n31,Dangerous Minds (1995),Drama\n1029,"Dumbo, The (1941)",Animation|Children\n'


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


def test_an_item_listed_twice(tmp_path: Path) -> None:
    folder = write(tmp_path, ratings__csv=RATINGS_CSV, movies__csv=MOVIES_CSV + "31,Again,Drama\n")
    assert "movies.csv: line 4: movieId '31' is listed twice" in mistake(folder, "movielens")


def test_settings_that_a_source_ignores_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path, ratings__csv=RATINGS_CSV, movies__csv=MOVIES_CSV)
    with caplog.at_level(logging.WARNING):
        read(folder, "movielens", k_core=2)
        assert not caplog.records
        read(folder, "movielens", items_path="elsewhere.csv")
    assert caplog.messages == ["prepare_data.items_path is ignored: source movielens does not use it"]
