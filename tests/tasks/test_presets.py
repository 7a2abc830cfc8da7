"""Presets of data sets and targets: each is valid, leaves nothing of the one before, and is laid over whole or not."""

import itertools
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from atspeed_core.errors import UserError
from atspeed_core.settings import Lora, load_params
from tasks.params_file import WHOLE, apply_presets, with_changes
from tasks.pipeline import explain_missing_data
from tasks.presets import DATASETS, PRESETS, TARGETS, load_preset
from tasks.use_preset import app, listing, next_step, preset_path

ROOT = Path(__file__).resolve().parents[2]
DATASET_NAMES, TARGET_NAMES = (
    sorted(path.stem for path in (ROOT / kind).glob("*.yaml")) for kind in (DATASETS, TARGETS)
)
DEFAULT = "ml-latest-small-2016"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / PRESETS, tmp_path / PRESETS)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("name", DATASET_NAMES)
def test_every_data_set_is_valid_and_names_itself(name: str, project: Path) -> None:
    apply_presets(project, [DATASETS / name])
    params = load_params(project)
    assert params.prepare_data.dataset == name
    assert params.prepare_data.max_history == 20
    assert params.evaluate.ks == [1, 3, 5, 10, 20]
    assert params.evaluate.draft_beams == 40


@pytest.mark.parametrize("name", ["beauty", "games"])
def test_the_papers_data(name: str, project: Path) -> None:
    apply_presets(project, [DATASETS / name])
    prepare_data = load_params(project).prepare_data
    assert (prepare_data.rating_threshold, prepare_data.split) == (4.0, "chronological")


def test_the_default_preset_is_the_delivered_file(project: Path) -> None:
    before = project.read_bytes()
    apply_presets(project, [DATASETS / DEFAULT])
    assert project.read_bytes() == before


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(["beauty-release", "steam", DEFAULT], 2)))
def test_nothing_of_the_data_set_before_is_left(first: str, second: str, project: Path) -> None:
    apply_presets(project, [DATASETS / second])
    alone = project.read_text()
    apply_presets(project, [DATASETS / first])
    apply_presets(project, [DATASETS / second])
    assert project.read_text() == alone


def test_a_setting_of_another_source_goes_and_ones_own_stay(project: Path) -> None:
    text = project.read_text().replace("  source: movielens", "  columns: {user: who}\n  source: table")
    text = text.replace("report:", "# mine\nreport:").replace("AtSpeed nightly", "My night")
    changed = with_changes(text, load_preset("ml-1m", DATASETS).params, whole=WHOLE)
    assert "columns" not in yaml.safe_load(changed)["prepare_data"]
    assert "# mine\nreport:\n  title: My night\n" in changed
    assert "learning_rate: 2.0e-3" in changed


def test_all_presets_change_the_same_sections(project: Path) -> None:
    """Else a section that one preset changes would stay changed under the next."""
    others = {"evaluate": ["ks", "draft_beams", "draft_steps"]}
    for name in DATASET_NAMES:
        changed = load_preset(name, DATASETS).params
        assert {section: list(own) for section, own in changed.items() if section != "prepare_data"} == others


def test_a_wrong_preset_changes_nothing(project: Path) -> None:
    before = project.read_bytes()
    (DATASETS / "mine.yaml").write_text("description: mine\nparams: {prepare_data: {dataset: mine, sauce: table}}\n")
    with pytest.raises(
        UserError, match=r"^presets/datasets/mine\.yaml over params\.yaml: .*unknown key 'prepare_data\.sauce'"
    ):
        apply_presets(Path("params.yaml"), [DATASETS / "mine"])
    assert project.read_bytes() == before
    assert sorted(path.name for path in project.parent.iterdir()) == ["params.yaml", "presets"]


def test_the_command_tells_what_comes_next(project: Path) -> None:
    answer = CliRunner().invoke(app, [f"datasets/{DEFAULT}"])
    assert answer.exit_code == 0
    assert "data/raw/ml-latest-small-2016: not there; set prepare_data.path, or get MovieLens" in answer.output
    assert "https://grouplens.org/datasets/movielens/" in answer.output
    (project.parent / "data" / "raw" / DEFAULT).mkdir(parents=True)
    assert next_step(load_params(project).prepare_data).endswith("next: make run")
    assert CliRunner().invoke(app, ["datasets/netflix"]).exit_code == 2


def test_a_failed_run_says_where_the_data_are_to_be_had(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    apply_presets(project, [DATASETS / "steam"])
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


@pytest.mark.parametrize("name", TARGET_NAMES)
def test_every_target_is_taken_over_whole(name: str, project: Path) -> None:
    apply_presets(project, [TARGETS / name])
    params, expected = load_params(project), load_preset(name, TARGETS).params
    for section, settings in expected.items():
        values = getattr(params, section).model_dump(by_alias=True, exclude_unset=True)
        assert {key: values[key] for key in settings} == settings
    assert params.finetune_target.model_dump(exclude_unset=True) == expected["finetune_target"]


def test_the_demo_is_the_delivered_file(project: Path) -> None:
    before = project.read_bytes()
    apply_presets(project, [TARGETS / "demo"])
    assert project.read_bytes() == before


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(TARGET_NAMES, 2)))
def test_nothing_of_the_target_before_is_left(first: str, second: str, project: Path) -> None:
    """Both ways round, so that a setting which one of two presets alone changes is found."""
    apply_presets(project, [TARGETS / second])
    alone = load_params(project)
    apply_presets(project, [TARGETS / first, TARGETS / second])
    assert load_params(project) == alone


def test_the_papers_models(project: Path) -> None:
    apply_presets(project, [DATASETS / "beauty", TARGETS / "llama-7b"])
    params = load_params(project)
    target, draft = params.finetune_target, params.align_draft
    assert params.prepare_data.dataset == "beauty"
    assert params.prepare_data.max_history == 20
    assert (target.learning_rate, target.batch_size, target.max_epochs) == (1e-4, 256, 20)
    assert target.lora == Lora(rank=8, alpha=16, dropout=0.05)
    assert (target.deepspeed.precision, target.deepspeed.num_processes) == ("bfloat16", "auto")
    assert (draft.base_model, draft.architecture) == ("JackFram/llama-68m", None)
    assert (draft.learning_rate, draft.batch_size, draft.weight_decay) == (1e-3, 256, 0.1)
    assert params.cache_topk.top_k == 20


def test_all_or_none(project: Path) -> None:
    before = project.read_bytes()
    (TARGETS / "mine.yaml").write_text("description: mine\nparams: {finetune_target: {base_mode: x}}\n")
    with pytest.raises(
        UserError,
        match=r"^presets/datasets/steam\.yaml and presets/targets/mine\.yaml over .*'finetune_target\.base_mode'",
    ):
        apply_presets(project, [DATASETS / "steam", TARGETS / "mine"])
    assert project.read_bytes() == before


def test_the_command(project: Path) -> None:
    answer = CliRunner().invoke(app, ["datasets/ml-latest-small-2016", "targets/qwen"])
    assert answer.exit_code == 0
    assert "ml-latest-small-2016" in answer.output
    assert load_params(project).finetune_target.base_model == "Qwen/Qwen2.5-0.5B"
    listed = [line.split()[0] for line in listing().splitlines()]
    names = [*(f"datasets/{name}" for name in DATASET_NAMES), *(f"targets/{name}" for name in TARGET_NAMES)]
    assert sorted(listed) == sorted(names)
    assert all((preset_path(name).parent / f"{preset_path(name).name}.yaml").exists() for name in listed)


@pytest.mark.parametrize("name", ["beauty", "targets/", "targets/none-such", "../params", "targets/../../params"])
def test_an_unknown_name_changes_nothing(name: str, project: Path) -> None:
    before = project.read_bytes()
    assert CliRunner().invoke(app, [name]).exit_code == 2
    assert project.read_bytes() == before
