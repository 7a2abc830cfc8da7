"""The feed: what a day's file may hold, what is new, and what the folder of days holds afterwards."""

import gzip
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atspeed_core.data import feed as feeds
from atspeed_core.data.feed import append, find_feed, late_days, read_day, read_items
from atspeed_core.data.partitions import (
    DAY_SECONDS,
    changing,
    day_start,
    days_of,
    history_name,
    num_interactions,
    partitions,
    read_partitions,
)
from atspeed_core.data.prepare import prepare
from atspeed_core.data.reading import read_source
from atspeed_core.errors import UserError
from scripts import replay_feed
from tests.complete_params import PrepareData

FIRST = day_start("2026-01-01")
MOVIELENS = Path(__file__).resolve().parents[2] / "data" / "raw" / "ml-latest-small-2016"


def rows(*times: int, **columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"user_id": "u", "item_id": [f"i{n}" for n in range(len(times))], "timestamp": times})
    return frame.assign(**{"rating": 4.0, **columns})


def put(folder: Path, **days: pd.DataFrame) -> Path:
    """Write frames by day: d1 is 2026-01-01, h3 the history before 2026-01-03."""
    folder.mkdir(exist_ok=True)
    for name, frame in days.items():
        day = f"2026-01-{int(name[1:]):02d}"
        frame.to_parquet(folder / f"{history_name(day) if name[0] == 'h' else day}.parquet")
    return folder


def at(day: int, second: int = 0) -> int:
    return FIRST + (day - 1) * DAY_SECONDS + second


def ingest(store: Path, feed: Path, after: str | None, until: str) -> dict[str, int]:
    with changing(store) as folder:
        return append(folder, find_feed(feed), after=after, until=until)


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


def mistake(action: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(UserError) as error:
        action(*arguments, **named)
    assert "\n" not in str(error.value)
    return str(error.value)


def daily(path: Path, **settings: Any) -> PrepareData:
    return PrepareData(dataset="t", source="daily", path=str(path), **settings)


def test_days_are_appended_in_the_layout_of_partitions(tmp_path: Path) -> None:
    numbers = rows(at(2, 5), at(2), user_id=7, item_id=[31, 32])
    feed = put(tmp_path / "feed", d1=rows(at(1)), d2=numbers, d3=rows(at(3)))
    assert ingest(tmp_path / "store", feed, None, "2026-01-01") == {"2026-01-01": 1}
    assert ingest(tmp_path / "store", feed, "2026-01-01", "2026-01-02") == {"2026-01-02": 2}
    assert [path.name for path in partitions(tmp_path / "store")] == ["2026-01-01.parquet", "2026-01-02.parquet"]
    assert pd.read_parquet(tmp_path / "store" / "2026-01-02.parquet").to_dict("list") == {
        "user_id": ["7", "7"],
        "item_id": ["31", "32"],
        "rating": [4.0, 4.0],
        "timestamp": [at(2, 5), at(2)],
    }
    assert num_interactions(tmp_path / "store") == 3


def test_csv_gz_csv_and_parquet_give_the_same_interactions(tmp_path: Path) -> None:
    text = f"user_id,item_id,timestamp,rating\nu,i0,{at(1)},4\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    rows(at(1)).to_parquet(tmp_path / "a.parquet")
    tables = [read_day(tmp_path / name, "2026-01-01") for name in ("a.csv", "a.csv.gz", "a.parquet")]
    assert [table.to_dict("list") for table in tables] == [tables[0].to_dict("list")] * 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "u,i,1767312000,4",
            "line 3: timestamp 1767312000 (2026-01-02 00:00:00) is not on 2026-01-01 (UTC) (1 in all)",
        ),
        (
            "u,i,1767225599,4",
            "line 3: timestamp 1767225599 (2025-12-31 23:59:59) is not on 2026-01-01 (UTC) (1 in all)",
        ),
        ("u,,1767225600,4", "line 3: item_id is empty"),
        ("u,i,1767225600,", "line 3: rating is not a finite number"),
        ("u,i,noon,4", "line 3: timestamp 'noon' is not a whole number of unix seconds"),
        ("u,i,1767225600,4,5", "Expected 4 fields in line 3, saw 5"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "2026-01-01.csv"
    path.write_text(f"user_id,item_id,timestamp,rating\nu,i,{at(1)},4\n{line}\n")
    message = mistake(read_day, path, "2026-01-01")
    assert message.startswith(f"{path}: ")
    assert said in message


def test_many_rows_of_another_day_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path, d1=rows(*range(at(2), at(2) + 30))) / "2026-01-01.parquet"
    message = mistake(read_day, path, "2026-01-01")
    assert "(30 in all): put each into the file of its day" in message
    assert message.count("is not on") == feeds.MAX_LISTED


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    put(tmp_path, d1=rows(at(1)).drop(columns="user_id"))
    message = mistake(read_day, tmp_path / "2026-01-01.parquet", "2026-01-01")
    assert "no column 'user_id' (found: item_id, timestamp, rating); name the columns so" in message


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["2026-01-01.csv", "2026-01-01.parquet"], "2026-01-01.csv and 2026-01-01.parquet are the same twice"),
        (["items.csv", "items.parquet"], "items.csv and items.parquet are the same twice"),
        (["2026-02-30.csv"], "2026-02-30 is no date"),
        (["history-before-2026-13-01.csv"], "2026-13-01 is no date"),
        (["history-before-2026-01-01.csv", "history-before-2026-01-02.csv"], "two histories"),
        (["history-before-2026-01-02.csv", "2026-01-01.csv"], "already contains 2026-01-01.csv"),
    ],
)
def test_names_that_contradict_each_other(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert said in mistake(find_feed, tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert mistake(find_feed, tmp_path / "no").startswith(
        f"{tmp_path / 'no'}: no such folder; put the days' files there"
    )


def test_names_that_mean_nothing_are_told_and_half_written_files_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("2026-1-1.csv", ".2026-01-01.csv.tmp", "2026-01-02.csv"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING):
        assert list(find_feed(tmp_path).days) == ["2026-01-02"]
    assert [record.args[0].name for record in caplog.records if isinstance(record.args, tuple)] == ["2026-1-1.csv"]


def test_a_damaged_file_among_good_ones_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    feed = put(tmp_path / "feed", d1=rows(at(1)), d2=rows(at(2)), d3=rows(at(3)))
    ingest(tmp_path / "store", feed, None, "2026-01-01")
    before = content(tmp_path / "store")
    (feed / "2026-01-03.parquet").write_bytes((feed / "2026-01-03.parquet").read_bytes()[:100])
    message = mistake(ingest, tmp_path / "store", feed, "2026-01-01", "2026-01-03")
    assert "2026-01-03.parquet: truncated or not Parquet" in message
    assert content(tmp_path / "store") == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_history_comes_first_and_only_up_to_the_night(tmp_path: Path) -> None:
    feed = put(tmp_path / "feed", h3=rows(at(-400), at(1), at(2)), d3=rows(at(3)))
    assert ingest(tmp_path / "a", feed, None, "2026-01-03") == {"history-before-2026-01-03": 3, "2026-01-03": 1}
    assert [path.stem for path in partitions(tmp_path / "a")] == ["history-before-2026-01-03", "2026-01-03"]
    assert ingest(tmp_path / "b", feed, None, "2026-01-01") == {"history-before-2026-01-02": 2}
    assert ingest(tmp_path / "b", feed, "2026-01-01", "2026-01-03") == {"2026-01-02": 1, "2026-01-03": 1}
    assert read_partitions(tmp_path / "a").to_dict("list") == read_partitions(tmp_path / "b").to_dict("list")


def test_a_history_with_a_day_that_it_should_not_hold(tmp_path: Path) -> None:
    feed = put(tmp_path / "feed", h3=rows(at(1), at(3)))
    message = mistake(ingest, tmp_path / "store", feed, None, "2026-01-03")
    assert "row 2: timestamp" in message
    assert "is not before 2026-01-03 (UTC)" in message


def test_days_with_and_without_ratings_do_not_mix(tmp_path: Path) -> None:
    unrated = rows(at(2)).drop(columns="rating")
    feed = put(tmp_path / "feed", d1=rows(at(1)), d2=unrated)
    assert "has no ratings, but the days before have" in mistake(ingest, tmp_path / "s", feed, None, "2026-01-02")
    ingest(tmp_path / "s", feed, None, "2026-01-01")
    assert "has no ratings" in mistake(ingest, tmp_path / "s", feed, "2026-01-01", "2026-01-02")
    put(feed, d1=rows(at(1)).drop(columns="rating"), d2=rows(at(2)))
    assert "has ratings, but the days before have none" in mistake(ingest, tmp_path / "t", feed, None, "2026-01-02")


def test_a_source_without_ratings_has_no_such_column(tmp_path: Path) -> None:
    feed = put(tmp_path / "feed", d1=rows(at(1)).drop(columns="rating"), d2=rows().drop(columns="rating"))
    ingest(tmp_path / "store", feed, None, "2026-01-02")
    assert list(read_source(daily(tmp_path / "store")).interactions) == ["user_id", "item_id", "timestamp"]


def test_titles_are_a_union_in_which_the_later_one_wins(tmp_path: Path) -> None:
    feed = put(tmp_path / "feed", d1=rows(at(1)), d2=rows(at(2)))
    pd.DataFrame({"item_id": [1, 2], "title": ["A", "B"], "text": ["A. a", ""]}).to_parquet(feed / "items.parquet")
    ingest(tmp_path / "store", feed, None, "2026-01-01")
    (feed / "items.parquet").unlink()
    (feed / "items.csv").write_text("item_id,title\n3,C\n1,AA\n2,\n")
    ingest(tmp_path / "store", feed, "2026-01-01", "2026-01-02")
    assert read_source(daily(tmp_path / "store")).items.to_dict("records") == [
        {"item_id": "1", "title": "AA", "text": "AA"},
        {"item_id": "2", "title": "B", "text": ""},
        {"item_id": "3", "title": "C", "text": "C"},
    ]


def test_an_item_that_the_feed_lists_twice(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id\n1\n1\n")
    assert "items.csv: line 3: item_id '1' is listed twice" in mistake(read_items, tmp_path / "items.csv")


def test_an_earlier_version_of_the_folder_keeps_its_files(tmp_path: Path) -> None:
    """The new version shares files with the old one by hard links; nothing is written through them."""
    feed = put(tmp_path / "feed", d1=rows(at(1)), d2=rows(at(2)))
    (feed / "items.csv").write_text("item_id,title\n1,A\n")
    ingest(tmp_path / "store", feed, None, "2026-01-01")
    with changing(tmp_path / "other") as copy:
        for path in (tmp_path / "store").iterdir():
            (copy / path.name).hardlink_to(path)
    before = content(tmp_path / "other")
    (feed / "items.csv").write_text("item_id,title\n1,B\n")
    ingest(tmp_path / "store", feed, "2026-01-01", "2026-01-02")
    assert content(tmp_path / "other") == before
    assert (tmp_path / "store" / "2026-01-01.parquet").samefile(tmp_path / "other" / "2026-01-01.parquet")


def test_late_days_are_those_with_other_content(tmp_path: Path) -> None:
    days = {f"d{n}": rows(at(n)) for n in range(1, 6)} | {"d5": rows()}
    feed = put(tmp_path / "feed", **days)
    ingest(tmp_path / "store", feed, None, "2026-01-05")
    put(feed, d1=rows(at(1), at(1)), d2=rows(at(2), user_id="v"))
    rows(at(3)).to_parquet(feed / "2026-01-03.parquet", compression=None)  # the same rows in other bytes
    rows().to_parquet(feed / "2026-01-05.parquet", compression=None)
    (tmp_path / "store" / "2026-01-04.parquet").unlink()
    put(feed, d7=rows(at(7)))
    late = late_days(tmp_path / "store", find_feed(feed), until="2026-01-06", recent="2026-01-01")
    assert late == ["2026-01-01", "2026-01-02", "2026-01-04"]


def test_old_files_of_the_same_size_are_not_read_again(tmp_path: Path) -> None:
    feed = tmp_path / "feed"
    feed.mkdir()
    (feed / "2026-01-01.csv").write_text(f"user_id,item_id,timestamp\nu,i,{at(1)}\n")
    ingest(tmp_path / "store", feed, None, "2026-01-01")
    (feed / "2026-01-01.csv").write_text(f"user_id,item_id,timestamp\nu,j,{at(1)}\n")
    found = {
        recent: late_days(tmp_path / "store", find_feed(feed), until="2026-01-01", recent=recent)
        for recent in ("2026-01-01", "2026-01-02")
    }
    assert found == {"2026-01-01": ["2026-01-01"], "2026-01-02": []}


def test_a_damaged_partition_is_named(tmp_path: Path) -> None:
    ingest(tmp_path / "store", put(tmp_path / "feed", d1=rows(at(1)), d2=rows(at(2))), None, "2026-01-02")
    pd.DataFrame({"user_id": ["u"]}).to_parquet(tmp_path / "store" / "2026-01-02.parquet")
    assert "2026-01-02.parquet: no column 'item_id', 'rating', 'timestamp'" in mistake(
        read_source, daily(tmp_path / "store")
    )
    rows(at(2), user_id="")[["user_id", "item_id", "rating", "timestamp"]].to_parquet(
        tmp_path / "store" / "2026-01-02.parquet"
    )
    message = mistake(read_source, daily(tmp_path / "store"))
    assert message.startswith(f"{tmp_path / 'store'}: file 2026-01-02.parquet row 1: user_id is empty")
    assert "ingest a first day, or set prepare_data.path" in mistake(read_source, daily(tmp_path / "feed" / "no"))


def test_settings_that_the_daily_source_ignores_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ingest(tmp_path / "store", put(tmp_path / "feed", d1=rows(at(1))), None, "2026-01-01")
    read_source(daily(tmp_path / "store", items_path="elsewhere.csv", columns={"user": "who"}))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"prepare_data.{name} is ignored: source daily does not use it" for name in ("columns", "items_path")
    ]


INTERACTIONS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 6 * DAY_SECONDS - 1)), min_size=1, max_size=40
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=INTERACTIONS, nights=st.sets(st.integers(0, 5), min_size=1))
def test_nights_in_any_step_give_the_same_days_and_nothing_of_a_later_one(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]], nights: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("steps")
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(rating=4.0)
    frame["timestamp"] += FIRST
    (folder / "feed").mkdir()
    for day, own in frame.groupby(days_of(frame["timestamp"])):
        own.to_parquet(folder / "feed" / f"{day}.parquet")
    after = None
    for night in sorted(nights):
        until = f"2026-01-{night + 1:02d}"
        ingest(folder / "steps", folder / "feed", after, until)
        ingest(folder / until, folder / "feed", None, until)
        assert content(folder / "steps") == content(folder / until)
        assert num_interactions(folder / "steps") == (frame["timestamp"] < FIRST + (night + 1) * DAY_SECONDS).sum()
        after = until


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MovieLens data as a feed, and all of it ingested into store/."""
    folder = tmp_path_factory.mktemp("replayed")
    replay_feed.main(folder / "feed", days=30, last_day="2026-01-31", source=MOVIELENS)
    ingest(folder / "store", folder / "feed", None, "2026-01-20")
    ingest(folder / "store", folder / "feed", "2026-01-20", "2026-01-31")
    return folder


def test_replayed_days_are_prepared_like_the_data_that_they_come_from(replayed: Path) -> None:
    own = {"dataset": "t", "rating_threshold": 4.0}
    original = prepare(PrepareData(source="movielens", path=str(MOVIELENS), **own))
    by_day = prepare(PrepareData(source="daily", path=str(replayed / "store"), **own))
    assert by_day.train["user_id"].tolist() == original.train["user_id"].tolist()
    assert by_day.train["item_ids"].map(list).tolist() == original.train["item_ids"].map(list).tolist()
    assert by_day.test["targets"].map(list).tolist() == original.test["targets"].map(list).tolist()
    pd.testing.assert_frame_equal(by_day.items, original.items)
    shift = by_day.test["target_timestamps"].str[0] - original.test["target_timestamps"].str[0]
    assert shift.nunique() == 1
    assert shift[0] % DAY_SECONDS == 0


def test_source_daily_equals_source_table_on_the_same_rows(replayed: Path, tmp_path: Path) -> None:
    read_partitions(replayed / "store").to_parquet(tmp_path / "all.parquet", index=False)
    own = {"dataset": "t", "split": "chronological", "rating_threshold": 4.0}
    table = prepare(PrepareData(source="table", path=str(tmp_path / "all.parquet"), **own))
    by_day = prepare(PrepareData(source="daily", path=str(replayed / "store"), **own))
    for name in ("train", "valid", "test"):
        pd.testing.assert_frame_equal(getattr(by_day, name), getattr(table, name))


def test_the_replayed_feed_ends_on_the_last_day(replayed: Path) -> None:
    feed = find_feed(replayed / "feed")
    assert feed.history_end == "2026-01-02"
    assert max(feed.days) == "2026-01-31"
    assert num_interactions(replayed / "store") == 100_004
