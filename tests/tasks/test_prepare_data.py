"""The command of the stage prepare_data: exit codes, one line for a mistake, earlier outputs untouched."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import Result

from tests.in_process import STAGE_ENVIRONMENT, call

ROOT = Path(__file__).resolve().parents[2]
ROWS = [(u, i, 4.0, 10 * u + i) for u in range(6) for i in range(6)]
GOOD = pd.DataFrame(ROWS, columns=["user_id", "item_id", "rating", "timestamp"])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(**changes: str) -> Callable[[Path], None]:
    return lambda path: GOOD.astype(str).assign(**changes).to_parquet(path)


def run(project: Path, *options: str) -> Result:
    return call("tasks.prepare_data", *options, folder=project, **STAGE_ENVIRONMENT)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small source, on which the stage has run once."""
    folder = tmp_path_factory.mktemp("project")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["prepare_data"] |= {"dataset": "toy", "source": "table", "path": "toy.parquet"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    GOOD.to_parquet(folder / "toy.parquet")
    command = [sys.executable, "-m", "tasks.prepare_data"]  # as DVC starts it
    environment = {**os.environ, **STAGE_ENVIRONMENT}
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return folder


def outputs(project: Path) -> dict[str, tuple[int, bytes]]:
    files = (project / "data" / "processed").iterdir()
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def test_a_good_run_writes_the_five_files(project: Path) -> None:
    assert set(outputs(project)) == {"train.parquet", "valid.parquet", "test.parquet", "items.parquet", "stats.json"}
    train = pd.read_parquet(project / "data" / "processed" / "train.parquet")
    assert train["item_ids"].map(list).tolist() == [["0", "1", "2", "3"]] * 6


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: GOOD.drop(columns="rating").to_parquet(path), "toy.parquet: no column 'rating' (found: "),
        (spoil(rating="four"), "toy.parquet: row 1: rating 'four' is not a finite number"),
        (lambda path: path.write_bytes(b""), "toy.parquet: the file is empty"),
        (truncate, "toy.parquet: truncated or not Parquet"),
    ],
    ids=["missing column", "text in a number", "empty", "truncated"],
)
def test_bad_input_is_one_line_exit_code_2_and_no_change(
    project: Path, damage: Callable[[Path], None], said: str
) -> None:
    before = outputs(project)
    damage(project / "toy.parquet")
    finished = run(project)
    GOOD.to_parquet(project / "toy.parquet")
    assert finished.exit_code == 2, finished.stderr
    assert said in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    assert outputs(project) == before


def test_a_sample_for_a_quick_look(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "copy")
    finished = run(copy, "--sample", "5")
    assert finished.exit_code == 0, finished.stderr
    assert "DVC does not know of --sample" in finished.stderr
    assert len(pd.read_parquet(copy / "data" / "processed" / "train.parquet")) == 5
