"""One command switches the data set: what a preset says is in params.yaml then, and nothing of the one before."""

import itertools
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from atspeed_core.errors import UserError
from atspeed_core.settings import load_params
from tasks.nightly.preset import PRESETS, load_preset
from tasks.pipeline import explain_missing_data
from tasks.use_dataset import DATASETS, app, laid_over, listing, next_step, write_params

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / DATASETS).glob("*.yaml"))
DEFAULT = "ml-latest-small-2016"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / PRESETS, tmp_path / PRESETS)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_valid_and_names_itself(name: str, project: Path) -> None:
    write_params(project, name)
    params = load_params(project)
    assert params.prepare_data.dataset == name
    assert params.prepare_data.max_history == 20
    assert params.evaluate.ks == [1, 3, 5, 10, 20]
    assert params.evaluate.draft_beams == 40


@pytest.mark.parametrize("name", ["beauty", "games"])
def test_the_papers_settings(name: str, project: Path) -> None:
    write_params(project, name)
    prepare_data = load_params(project).prepare_data
    assert (prepare_data.rating_threshold, prepare_data.split) == (4.0, "chronological")


def test_the_default_preset_is_the_delivered_file(project: Path) -> None:
    before = project.read_bytes()
    write_params(project, DEFAULT)
    assert project.read_bytes() == before


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(["beauty-release", "steam", DEFAULT], 2)))
def test_nothing_of_the_data_set_before_is_left(first: str, second: str, project: Path) -> None:
    write_params(project, second)
    alone = project.read_text()
    write_params(project, first)
    write_params(project, second)
    assert project.read_text() == alone


def test_a_setting_of_another_source_goes_and_ones_own_stay(project: Path) -> None:
    text = project.read_text().replace("  source: movielens", "  columns: {user: who}\n  source: table")
    text = text.replace("report:", "# mine\nreport:").replace("AtSpeed nightly", "My night")
    changed = laid_over(text, load_preset("ml-1m", DATASETS).params)
    assert "columns" not in yaml.safe_load(changed)["prepare_data"]
    assert "# mine\nreport:\n  title: My night\n" in changed
    assert "learning_rate: 2.0e-3" in changed


def test_all_presets_change_the_same_sections(project: Path) -> None:
    """Else a section that one preset changes would stay changed under the next."""
    others = {"evaluate": ["ks", "draft_beams", "draft_steps"]}
    for name in NAMES:
        changed = load_preset(name, DATASETS).params
        assert {section: list(own) for section, own in changed.items() if section != "prepare_data"} == others


def test_a_wrong_preset_changes_nothing(project: Path) -> None:
    before = project.read_bytes()
    (DATASETS / "mine.yaml").write_text("description: mine\nparams: {prepare_data: {dataset: mine, sauce: table}}\n")
    with pytest.raises(
        UserError, match=r"^presets/datasets/mine\.yaml over params\.yaml: .*unknown key 'prepare_data\.sauce'"
    ):
        write_params(Path("params.yaml"), "mine")
    assert project.read_bytes() == before
    assert sorted(path.name for path in project.parent.iterdir()) == ["params.yaml", "presets"]


def test_the_command_tells_what_comes_next(project: Path) -> None:
    answer = CliRunner().invoke(app, [DEFAULT])
    assert answer.exit_code == 0
    assert "data/raw/ml-latest-small-2016: not there; set prepare_data.path, or get MovieLens" in answer.output
    assert "https://grouplens.org/datasets/movielens/" in answer.output
    (project.parent / "data" / "raw" / DEFAULT).mkdir(parents=True)
    assert next_step(load_params(project).prepare_data).endswith("next: make run")
    assert CliRunner().invoke(app, ["netflix"]).exit_code == 2
    assert [line.split()[0] for line in listing().splitlines()] == NAMES


def test_a_failed_run_says_where_the_data_are_to_be_had(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_params(project, "steam")
    explain_missing_data()
    assert "data/raw/steam: not there; set prepare_data.path, or get Steam: steam_reviews.json.gz" in caplog.text
    Path("data/raw/steam").mkdir(parents=True)
    caplog.clear()
    explain_missing_data()
    project.write_text("nonsense")
    explain_missing_data()  # the stage has said what is wrong with the params
    assert not caplog.messages


def test_nights_do_not_offer_data_sets_without_a_feed() -> None:
    assert [path.name for path in (ROOT / PRESETS).glob("*.yaml")] == ["ml-latest-small-2016.yaml"]
