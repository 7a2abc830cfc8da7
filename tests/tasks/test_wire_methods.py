"""dvc.yaml with other methods, on the project's own file."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from atspeed_core.methods import METHODS, wired_methods
from tasks.wire_methods import main, wire_methods

ROOT = Path(__file__).resolve().parents[2]


def copied(folder: Path) -> Path:
    for name in ("dvc.yaml", "dvc.lock", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


SHARED_STAGES = [name for name in yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"] if "@" not in name]


def test_with_the_same_methods_the_file_stays_as_it_is(tmp_path: Path) -> None:
    wire_methods(copied(tmp_path), wired_methods())
    for name in ("dvc.yaml", "dvc.lock"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


def test_nothing_speaks_of_the_other_methods_and_nothing_else_changes(tmp_path: Path) -> None:
    wire_methods(copied(tmp_path), ["atspeed_s"])
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
    without_code = "\n".join(line for line in text.splitlines() if not line.endswith(".py"))
    assert not any(word in without_code for word in ("sft", "atspeed_r", "atspeed-r", "one_shot", "one-shot"))
    stages = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]
    assert {name.partition("@")[2] for name in stages} == {"", "atspeed_s"}


def stages_of_dvc(folder: Path) -> set[str]:
    (folder / ".dvc").mkdir(exist_ok=True)
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if "@" in name}


def test_all_methods_are_wired_as_the_default_ones_are(tmp_path: Path) -> None:
    methods = list(METHODS.all())
    wire_methods(copied(tmp_path), methods)
    content = yaml.safe_load((tmp_path / "dvc.yaml").read_text())
    report = content["stages"]["report"]["deps"]
    for method in methods:
        own = {f"models/drafts/{method}/curves.csv", f"results/{method}.json", f"results/per_user/{method}.parquet"}
        assert own <= set(report)
        assert content["artifacts"][f"draft-{method.replace('_', '-')}"] == {
            "path": f"models/drafts/{method}",
            "type": "model",
            "desc": METHODS.get(method).summary,
        }
    assert report.index("results/target.json") < report.index("results/sft.json") < report.index("results/wordkd.json")
    assert content["plots"][0]["accepted_steps"]["y"]["results/plots/accepted_steps.csv"] == [
        f"{method}_strict" for method in methods
    ]
    wanted = {f"{stage}@{method}" for stage in ("align_draft", "evaluate") for method in methods}
    assert stages_of_dvc(tmp_path) == wanted
    wire_methods(tmp_path, wired_methods())
    assert (tmp_path / "dvc.yaml").read_text() == (ROOT / "dvc.yaml").read_text()  # and back


def test_a_method_that_was_not_wired_takes_the_place_of_those_that_were(tmp_path: Path) -> None:
    wire_methods(copied(tmp_path), ["dare"])
    assert stages_of_dvc(tmp_path) == {"align_draft@dare", "evaluate@dare"}
    text = (tmp_path / "dvc.yaml").read_text()
    assert "results/dare.json" in text
    assert "results/sft.json" not in text
    assert list(yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]) == SHARED_STAGES


def test_the_command_sets_them_and_names_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied(tmp_path))
    main(["seqkd", "sft"])
    stages = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["stages"]
    assert stages["evaluate"]["matrix"] == {"method": ["sft", "seqkd"]}
    before = (tmp_path / "dvc.yaml").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main(["sft", "wordd"])
    assert (tmp_path / "dvc.yaml").read_bytes() == before
