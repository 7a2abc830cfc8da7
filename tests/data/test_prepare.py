"""From a source to the written tables: the whole of prepare_data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from atspeed_core.data.prepare import LAYOUTS, prepare, write
from atspeed_core.data.sequences import load_examples, load_items, load_train
from atspeed_core.errors import UserError
from tests.complete_params import PrepareData

ROOT = Path(__file__).resolve().parents[2]


def settings(path: Path, **changes: Any) -> PrepareData:
    base = {"dataset": "toy", "source": "table", "path": str(path), "k_core": 1}
    return PrepareData(**(base | changes))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Three users and four items, one interaction a second; user u0 has rated i0 twice."""
    rows = [(f"u{u}", f"i{i}", 3 + (i > 0), 100 * u + i) for u in range(3) for i in range(4)]
    frame = pd.DataFrame([*rows, ("u0", "i0", 5, 999)], columns=["user_id", "item_id", "rating", "timestamp"])
    frame.to_csv(tmp_path / "toy.csv", index=False)
    return tmp_path / "toy.csv"


def test_written_tables_read_back(toy: Path, tmp_path: Path) -> None:
    write(prepare(settings(toy, max_history=2)), tmp_path / "out")
    assert load_train(tmp_path / "out") == {"u0": ["i0", "i1"], "u1": ["i0", "i1"], "u2": ["i0", "i1"]}
    examples = load_examples(tmp_path / "out", "test")
    assert [(e.user, e.history, e.targets) for e in examples] == [(f"u{u}", ["i1", "i2"], ["i3"]) for u in range(3)]
    assert load_items(tmp_path / "out")["title"].tolist() == ["i0", "i1", "i2", "i3"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*(f"{n}.parquet" for n in LAYOUTS), "stats.json"}


def test_the_last_of_a_pair_moves_it_to_its_later_time(toy: Path) -> None:
    prepared = prepare(settings(toy, duplicates="last"))
    assert prepared.test.iloc[0].to_dict() == {
        "user_id": "u0",
        "history": ["i1", "i2", "i3"],
        "targets": ["i0"],
        "target_timestamps": [999],
    }


def test_stats_count_every_step(toy: Path) -> None:
    stats = prepare(settings(toy, rating_threshold=4.0, k_core=3)).stats
    assert [(row["step"], row["users"], row["items"], row["interactions"]) for row in stats["steps"]] == [
        ("read", 3, 4, 13),
        ("rating >= 4", 3, 4, 10),
        ("duplicates: first", 3, 4, 10),
        ("3-core", 3, 3, 9),
        ("split", 3, 3, 9),
    ]
    assert (stats["users"], stats["items"], stats["interactions"], stats["density"]) == (3, 3, 9, 1.0)
    assert stats["parts"]["train"] == {
        "users": 3,
        "items": 1,
        "interactions": 3,
        "time_range": ["1970-01-01T00:00:01+00:00", "1970-01-01T00:03:21+00:00"],
    }
    assert (stats["parts"]["test"]["cold_items"], stats["parts"]["test"]["cold_interactions"]) == (1, 3)
    json.dumps(stats)


def test_a_sample_is_a_step(toy: Path) -> None:
    prepared = prepare(settings(toy, sample=2, seed=1))
    assert [(step["step"], step["users"]) for step in prepared.stats["steps"]][1:] == [
        ("duplicates: first", 3),
        ("sample: 2 users", 2),
        ("1-core", 2),
        ("split", 2),
    ]
    assert len(prepared.train) == 2
    with pytest.raises(UserError, match="lower rating_threshold or k_core, or sample more users"):
        prepare(settings(toy, sample=1, k_core=2))


def test_a_published_split_is_sampled_as_well(tmp_path: Path) -> None:
    parts = {"training": [1, 2], "validation": [3], "testing": [4]}
    for name, items in parts.items():
        np.save(
            tmp_path / f"{name}_dict.npy", np.array(dict.fromkeys(range(9), items), dtype=object), allow_pickle=True
        )
    given = settings(tmp_path, source="atspeed_release", split="published", sample=4)
    assert len(prepare(given).test) == 4


def test_same_input_same_bytes(toy: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(prepare(settings(toy)), tmp_path / name)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k_core": 9}, r"no interactions are left \(read: 13, .* 9-core: 0\); lower rating_threshold or k_core"),
        ({"rating_threshold": 5.0}, "no user is left in valid and test"),
        ({"duplicates": "error"}, r"toy\.csv: 1 repeated interactions \(line 14: user 'u0', item 'i0'\)"),
        ({"columns": {"rating": None}, "rating_threshold": 4.0}, "no ratings; set it to null"),
        ({"columns": {"timestamp": None}, "split": "chronological"}, "no timestamps; set split to leave_one_out"),
    ],
)
def test_settings_that_do_not_fit_the_data(toy: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        prepare(settings(toy, **changes))
    assert str(error.value).startswith(f"{toy}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("threshold", "expected"), [(4.0, (659, 2078, 44413)), (None, (671, 3496, 90072))])
def test_embedded_movielens(threshold: float | None, expected: tuple[int, int, int]) -> None:
    path = ROOT / "data" / "raw" / "ml-latest-small-2016"
    given = PrepareData(dataset="ml", source="movielens", path=str(path), rating_threshold=threshold)
    prepared = prepare(given)
    assert tuple(prepared.stats[key] for key in ("users", "items", "interactions")) == expected
    assert prepared.stats["steps"][0]["interactions"] == 100_004
    assert len(prepared.test) == expected[0]
    assert "Toy Story (1995). Adventure, Animation, Children, Comedy, Fantasy" in prepared.items["text"].tolist()
