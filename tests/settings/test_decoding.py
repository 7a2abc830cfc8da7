"""How recommenders decode is read from the params in one place, and every caller uses it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from atspeed_core.settings import DecodingConfig, load_params
from atspeed_core.settings.decoding import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
OTHER = {"draft_beams": 21, "draft_steps": 2, "temperature": 0.5, "tree_attention": False, "exclude_history": True}
BUILDERS = {"atspeed_core/settings/decoding.py", "atspeed_core/recommender.py"}  # the latter: the library's default


def calls(folder: str) -> Iterator[tuple[str, ast.Call]]:
    """(path, call) of every call in the Python files of a folder of the project."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(ROOT)), node


def test_every_field_is_read_from_the_params(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["evaluate"].update(OTHER)
    raw["prepare_data"]["max_history"] = 7
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    decoding = load_params(tmp_path / "params.yaml").decoding()
    assert decoding.model_dump() == {**OTHER, "max_history": 7}
    assert set(SECTIONS) == decoding.model_fields_set == set(DecodingConfig.model_fields)


def test_the_configuration_survives_being_written() -> None:
    decoding = DecodingConfig(**OTHER, max_history=7)
    assert DecodingConfig.model_validate(decoding.model_dump(mode="json")) == decoding


def test_a_commit_of_another_version_is_read() -> None:
    """A champion's params.yaml may lack settings or contain unknown ones."""
    raw = {"prepare_data": {"max_history": 7}, "evaluate": {"draft_beams": 9, "forgotten": 1}, "former": {}}
    assert DecodingConfig.from_params(raw) == DecodingConfig(draft_beams=9, max_history=7, exclude_history=True)


def test_a_stage_without_a_draft_or_for_training_depends_on_less() -> None:
    decoding = DecodingConfig(**OTHER, max_history=7)
    assert decoding.without_draft() == DecodingConfig(temperature=0.5, exclude_history=True, max_history=7)
    assert decoding.for_training() == DecodingConfig(max_history=7)


def test_nobody_else_builds_a_configuration() -> None:
    builders = {
        path for folder in ("atspeed_core", "tasks") for path, call in calls(folder) if _name(call) == "DecodingConfig"
    }
    assert builders == BUILDERS


@pytest.mark.parametrize("folder", ["tasks", "scripts"])
def test_every_recommender_is_loaded_with_a_configuration(folder: str) -> None:
    loads = [(path, call) for path, call in calls(folder) if _name(call) == "Recommender.load"]
    assert loads or folder == "scripts"
    assert [path for path, call in loads if "decoding" not in {keyword.arg for keyword in call.keywords}] == []


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func)
