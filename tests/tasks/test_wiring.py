"""dvc.yaml against the code: what a stage imports makes it stale, what it names exists."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from atspeed_core.methods import wired_methods
from atspeed_core.settings import load_params, method_names
from scripts.stage_code import SHELL, Imports, is_code, stale_stages

ROOT = Path(__file__).resolve().parents[2]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
METHODS = method_names()


@pytest.fixture(scope="module")
def imports() -> Imports:
    return Imports()


def filled(values: list[str]) -> list[str]:
    """The values for every method."""
    return [value.replace("${item.method}", method) for value in values for method in METHODS]


def outs(stage: Any) -> list[str]:
    return [out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]]


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports_and_on_no_other(name: str, imports: Imports) -> None:
    named = [dep for dep in STAGES[name]["deps"] if is_code(dep)]
    assert named == imports.code_of(name), "run: python -m scripts.stage_code wire"


@pytest.mark.parametrize("module", SHELL)
def test_what_the_wiring_leaves_out_exists(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.is_dir() or path.with_suffix(".py").is_file()


def test_a_change_makes_stale_what_depends_on_it_and_what_reads_its_outputs() -> None:
    assert stale_stages("atspeed_core/identifiers/rq_vae.py", STAGES)[0] == "build_identifiers"
    assert "finetune_target" in stale_stages("atspeed_core/identifiers/rq_vae.py", STAGES)
    assert "finetune_target" not in stale_stages("atspeed_core/decoding/planner.py", STAGES)
    assert stale_stages("tasks/report.py", STAGES) == ["report"]
    assert stale_stages("tests/conftest.py", STAGES) == []


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_code_that_exists_or_outs_of_other_stages(name: str) -> None:
    written = {Path(out) for stage in STAGES.values() for out in filled(outs(stage))}
    for dep in map(Path, set(filled([dep for dep in STAGES[name]["deps"] if "${prepare_data" not in dep]))):
        from_a_stage = not written.isdisjoint({dep, *dep.parents})
        assert from_a_stage or (ROOT / dep).exists(), dep


@pytest.mark.parametrize("name", STAGES)
def test_params_exist(name: str) -> None:
    for param in STAGES[name]["params"]:
        value: Any = load_params(ROOT / "params.yaml")
        for part in param.split("."):
            assert isinstance(value, BaseModel)
            assert part in {field.alias or key for key, field in type(value).model_fields.items()}, param
            value = getattr(value, part)


def test_the_default_methods_are_wired() -> None:
    for name in ("align_draft", "evaluate"):
        assert STAGES[name]["matrix"]["method"] == wired_methods()


def test_a_stage_is_its_command() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"].split()[:3] == ["python", "-m", f"tasks.{name}"]
        assert (ROOT / "tasks" / f"{name}.py").exists()
