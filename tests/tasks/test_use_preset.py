"""Presets of targets: each is valid, leaves nothing of the one before, and goes with any data set."""

import itertools
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atspeed_core.errors import UserError
from atspeed_core.settings import Lora, load_params
from tasks.nightly.preset import PRESETS, load_preset
from tasks.use_dataset import lay_presets
from tasks.use_preset import app, listing, preset_path

ROOT = Path(__file__).resolve().parents[2]
TARGETS = PRESETS / "targets"
NAMES = sorted(path.stem for path in (ROOT / TARGETS).glob("*.yaml"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / PRESETS, tmp_path / PRESETS)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_taken_over_whole(name: str, project: Path) -> None:
    lay_presets(project, [TARGETS / name])
    params, wanted = load_params(project), load_preset(name, TARGETS).params
    for section, settings in wanted.items():
        found = getattr(params, section).model_dump(by_alias=True, exclude_unset=True)
        assert {key: found[key] for key in settings} == settings
    assert params.finetune_target.model_dump(exclude_unset=True) == wanted["finetune_target"]


def test_the_demo_is_the_delivered_file(project: Path) -> None:
    before = project.read_bytes()
    lay_presets(project, [TARGETS / "demo"])
    assert project.read_bytes() == before


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(NAMES, 2)))
def test_nothing_of_the_target_before_is_left(first: str, second: str, project: Path) -> None:
    """Both ways round, so that a setting which one of two presets alone changes is found."""
    lay_presets(project, [TARGETS / second])
    alone = load_params(project)
    lay_presets(project, [TARGETS / first, TARGETS / second])
    assert load_params(project) == alone


def test_the_papers_settings(project: Path) -> None:
    lay_presets(project, [PRESETS / "datasets" / "beauty", TARGETS / "llama-7b"])
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
        lay_presets(project, [PRESETS / "datasets" / "steam", TARGETS / "mine"])
    assert project.read_bytes() == before


def test_the_command(project: Path) -> None:
    answer = CliRunner().invoke(app, ["datasets/ml-latest-small-2016", "targets/qwen"])
    assert answer.exit_code == 0
    assert "ml-latest-small-2016" in answer.output
    assert load_params(project).finetune_target.base_model == "Qwen/Qwen2.5-0.5B"
    listed = [line.split()[0] for line in listing().splitlines()]
    assert {f"targets/{name}" for name in NAMES} | {"datasets/beauty"} <= set(listed)
    assert all((preset_path(name).parent / f"{preset_path(name).name}.yaml").exists() for name in listed)


@pytest.mark.parametrize("name", ["beauty", "targets/", "targets/none-such", "../params", "targets/../../params"])
def test_an_unknown_name_changes_nothing(name: str, project: Path) -> None:
    before = project.read_bytes()
    assert CliRunner().invoke(app, [name]).exit_code == 2
    assert project.read_bytes() == before
