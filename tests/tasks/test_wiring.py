"""dvc.yaml against the code: what a stage imports makes it stale, what it names exists."""

import typing
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml
from pydantic import BaseModel

from atspeed_core.settings import DEFAULT_METHODS, Method, load_params

ROOT = Path(__file__).resolve().parents[2]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
METHODS = typing.get_args(Method)
# A change there alters no figure; see the note in dvc.yaml.
LEFT_OUT = {"errors", "files", "settings", "progress", "variants"}
IN_ANOTHER_PROCESS = {"finetune_target": "atspeed_core.training.finetune"}


@pytest.fixture(scope="module")
def imports() -> Any:
    return grimp.build_graph("atspeed_core", "tasks", cache_dir=None)


def filled(values: list[str]) -> list[str]:
    """The values for every method."""
    return [value.replace("${item.method}", method) for value in values for method in METHODS]


def outs(stage: Any) -> list[str]:
    return [out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]]


@pytest.mark.parametrize("name", STAGES)
def test_code_that_a_stage_imports_makes_it_stale(name: str, imports: Any) -> None:
    entries = {f"tasks.{name}", IN_ANOTHER_PROCESS.get(name, f"tasks.{name}")}
    modules = entries.union(*(imports.find_upstream_modules(entry) for entry in entries))
    core = {module for module in modules if module.startswith("atspeed_core.") and module.split(".")[1] not in LEFT_OUT}
    files = [Path(*module.split(".")) for module in core if not imports.find_children(module)]
    deps = [Path(dep) for dep in STAGES[name]["deps"]]
    missing = [str(file) for file in files if not {file.with_suffix(".py"), *file.parents} & set(deps)]
    assert missing == []
    assert Path("tasks", f"{name}.py") in deps


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_code_that_exists_or_outs_of_other_stages(name: str) -> None:
    made = [Path(out) for stage in STAGES.values() for out in filled(outs(stage))]
    for dep in map(Path, filled([dep for dep in STAGES[name]["deps"] if not dep.startswith("${prepare_data")])):
        from_a_stage = any(out == dep or out in dep.parents for out in made)
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
        assert STAGES[name]["matrix"]["method"] == list(DEFAULT_METHODS)


def test_a_stage_is_its_command() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"].split()[:3] == ["python", "-m", f"tasks.{name}"]
        assert (ROOT / "tasks" / f"{name}.py").exists()
