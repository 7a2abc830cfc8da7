"""Real data through our split: the published AtSpeed Beauty split is ours, and sequences of reviews are usable.

The data may not be redistributed, so these tests need the folder `shared/data` beside the checkout.
"""

import json
from pathlib import Path

import pandas as pd
import pytest

from atspeed_core.data.prepare import prepare
from atspeed_core.data.reading import read_source
from atspeed_core.data.splitting import MIN_TRAIN_ITEMS, boundaries, parts_at
from tests.complete_params import PrepareData

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RELEASE, REVIEWS, STEAM = DATA / "atspeed-beauty", DATA / "amazon2014-beauty", DATA / "steam-100k"
PUBLISHED = (1394409600, 1400112000)  # 2014-03-10 and 2014-05-15, 00:00 UTC
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="research data are not beside this checkout")


def sequences(folder: Path) -> pd.DataFrame:
    """user_id, item_id, timestamp: one row per interaction, of a file with one line per user."""
    lines = pd.read_csv(folder / "sequences.tsv.gz", sep="\t", dtype=str)
    lists = {"item_id": lines["item_ids"].str.split(), "timestamp": lines["timestamps"].str.split()}
    rows = lines[["user_id"]].assign(**lists).explode(["item_id", "timestamp"], ignore_index=True)
    return rows.astype({"timestamp": "int64"})


@pytest.fixture(scope="module")
def reviews() -> pd.DataFrame:
    """All 5-core Beauty reviews of 2014, whatever their stars."""
    return sequences(REVIEWS)


@pytest.fixture(scope="module")
def release() -> pd.DataFrame:
    """The published interactions (4 stars and more) with their part."""
    given = PrepareData(dataset="beauty", source="atspeed_release", path=str(RELEASE), split="published")
    return read_source(given).interactions


@pytest.fixture(scope="module")
def timed(release: pd.DataFrame, reviews: pd.DataFrame) -> pd.DataFrame:
    """The published interactions whose time is known, by the maps of users and items between the two sources."""
    renamed = release.assign(
        user_id=release["user_id"].map(ids("beauty_users", "atspeed_user_id")),
        item_id=release["item_id"].map(ids("beauty_items", "atspeed_item_id")),
    )
    return renamed.merge(reviews, on=["user_id", "item_id"])


def ids(name: str, own: str) -> dict[str, str]:
    table = pd.read_csv(RELEASE / f"{name}.tsv.gz", sep="\t", dtype=str)
    other = next(column for column in table if column.startswith("amazon2014"))
    return dict(zip(table[own], table[other], strict=True))


def test_every_published_interaction_lies_in_our_part(timed: pd.DataFrame, release: pd.DataFrame) -> None:
    assert (len(timed), len(release)) == (136_474, 138_870)
    assert (parts_at(timed["timestamp"], PUBLISHED) == timed["part"]).all()
    by_user = timed.groupby("user_id")["timestamp"]
    assert by_user.apply(lambda times: times.is_monotonic_increasing).all()  # in the order of the published lists
    ends = timed.groupby("part")["timestamp"].agg(["min", "max"]).loc[["train", "valid", "test"]]
    assert ends["min"].tolist()[1:] == list(PUBLISHED)
    assert ends["max"].tolist() == [1394323200, 1400025600, 1406073600]


def test_users_with_fewer_than_two_training_items_are_dropped(release: pd.DataFrame) -> None:
    num_train = (release["part"] == "train").groupby(release["user_id"]).sum()
    assert (num_train.min(), MIN_TRAIN_ITEMS) == (2, 2)


def test_the_boundaries_were_set_before_users_were_dropped(timed: pd.DataFrame, reviews: pd.DataFrame) -> None:
    """Without the dropped users, who came late, 80 % and 90 % are reached too early; with all they did, too late.

    Which of the dropped users' reviews have four stars is in neither source, so the moments cannot be had exactly.
    """
    dropped = reviews[~reviews["user_id"].isin(timed["user_id"])]
    assert (dropped["user_id"].nunique(), len(dropped)) == (3_395, 24_565)
    without, with_all = timed["timestamp"], pd.concat([timed["timestamp"], dropped["timestamp"]])
    assert boundaries(without) == (1390003200, 1395964800)  # 51 and 48 days before the published ones
    assert boundaries(with_all) == (1395014400, 1400544000)  # 7 and 5 days after


def test_the_threshold_came_after_the_5_core(release: pd.DataFrame) -> None:
    """So a preset for the 5-core files must not apply a second k-core."""
    users, items = release["user_id"].value_counts(), release["item_id"].value_counts()
    assert (users.min(), (users < 5).sum()) == (2, 5_885)
    assert (items.min(), (items < 5).sum()) == (1, 3_454)


def test_published_beauty() -> None:
    given = PrepareData(
        dataset="beauty",
        source="atspeed_release",
        path=str(RELEASE),
        split="published",
        items_path=str(RELEASE / "beauty_items.tsv.gz"),
        columns={"item": "atspeed_item_id"},
    )
    prepared = prepare(given)
    parts = prepared.stats["parts"]
    assert [parts[part]["interactions"] for part in ("train", "valid", "test")] == [122_241, 9_316, 7_313]
    assert (len(prepared.train), len(prepared.valid), len(prepared.test)) == (19_383, 4_295, 3_553)
    assert len(prepared.items) == 12_035
    assert (prepared.items["title"] != prepared.items["item_id"]).sum() == 12_020
    identifiers = json.loads((RELEASE / "beauty.LCRec-1e-3lr.json").read_text())
    assert set(prepared.items["item_id"]) == set(identifiers)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [(REVIEWS, (22_332, 12_086, 198_215)), (STEAM, (10_369, 3_593, 126_824))],
    ids=["beauty", "steam"],
)
def test_sequences_of_reviews_are_usable_as_a_table(
    folder: Path, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    sequences(folder).to_parquet(tmp_path / "reviews.parquet")
    given = PrepareData(
        dataset="reviews",
        source="table",
        path=str(tmp_path / "reviews.parquet"),
        items_path=str(folder / "items.tsv.gz"),
        columns={"rating": None},
        split="chronological",
        duplicates="all",
    )
    prepared = prepare(given)
    steps = [tuple(step[of] for of in ("users", "items", "interactions")) for step in prepared.stats["steps"]]
    assert steps[0] == expected
    assert steps[2] == expected  # the sources are 5-core as they are
    ranges = [prepared.stats["parts"][part]["time_range"] for part in ("train", "valid", "test")]
    assert ranges[0][1] < ranges[1][0] <= ranges[1][1] < ranges[2][0]
    assert (prepared.items["title"] != prepared.items["item_id"]).mean() > 0.99
