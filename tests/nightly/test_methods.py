"""dvc.yaml of a night with fewer methods, on the project's own file."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import yaml

from atspeed_core.settings import Method
from tasks.nightly.methods import keep_methods

ROOT = Path(__file__).resolve().parents[2]


def copied(folder: Path) -> Path:
    for name in ("dvc.yaml", "dvc.lock", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


CODE_OF_ALL_METHODS = ["- atspeed_core/training/one_shot.py"]


def test_with_all_methods_the_file_stays_as_it_is(tmp_path: Path) -> None:
    keep_methods(copied(tmp_path), get_args(Method))
    for name in ("dvc.yaml", "dvc.lock"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


def test_nothing_speaks_of_the_other_methods_and_nothing_else_changes(tmp_path: Path) -> None:
    keep_methods(copied(tmp_path), ["atspeed_s"])
    text, before = (tmp_path / "dvc.yaml").read_text(), (ROOT / "dvc.yaml").read_text()
    content = yaml.safe_load(text)
    assert content["stages"]["align_draft"]["matrix"] == {"method": ["atspeed_s"]}
    assert content["stages"]["evaluate"]["matrix"] == {"method": ["atspeed_s"]}
    assert content["plots"][0]["accepted_steps"]["y"] == {"results/plots/accepted_steps.csv": ["atspeed_s_strict"]}
    assert list(content["artifacts"]) == ["target", "draft-atspeed-s"]
    comments = [line for line in before.splitlines() if "#" in line]
    assert [line for line in text.splitlines() if "#" in line] == comments
    gone = [line for line in before.splitlines() if line not in text.splitlines()]
    words = ("sft", "atspeed_r", "atspeed-r", "one_shot", "one-shot", "desc: Draft")
    assert all(any(word in line for word in words) for line in gone)
    added = [line for line in text.splitlines() if line not in before.splitlines()]
    assert all("atspeed_s" in line for line in added)
    assert not any(word in text for word in ("sft", "atspeed_r", "atspeed-r", "one-shot"))
    assert [line.strip() for line in text.splitlines() if "one_shot" in line] == CODE_OF_ALL_METHODS
    stages = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]
    assert {name.partition("@")[2] for name in stages} == {"", "atspeed_s"}


def test_dvc_reads_the_result(tmp_path: Path) -> None:
    keep_methods(copied(tmp_path), ["sft"])
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if "@" in name} == {"align_draft@sft", "evaluate@sft"}
