"""The value of a setting stands in one place: in params.yaml, or as the default of what params.yaml leaves out."""

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from atspeed_core.errors import UserError
from atspeed_core.settings import Params, load_params
from atspeed_core.settings.former import FORMER_DEFAULTS

ROOT = Path(__file__).resolve().parents[2]
RAW: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
# One of two alternatives; the other one is named in its place.
ALTERNATIVES = {"finetune_target.architecture", "align_draft.architecture"}


def settings(model: type[BaseModel], raw: dict[str, Any], path: str = "") -> Iterator[tuple[str, FieldInfo, bool]]:
    """(name, declaration, whether params.yaml names it) of every setting, sections included."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        yield f"{path}{key}", field, key in raw
        section = section_of(field.annotation)
        if section is not None and key in raw:
            yield from settings(section, raw[key], f"{path}{key}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    kinds = [kind for kind in (annotation, *typing.get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def test_every_value_stands_in_one_place() -> None:
    both = [name for name, field, named in settings(Params, RAW) if named and not field.is_required()]
    neither = [name for name, field, named in settings(Params, RAW) if not named and field.is_required()]
    assert set(both) <= ALTERNATIVES, "named in params.yaml: remove the default in atspeed_core/settings"
    assert neither == [], "without a default in atspeed_core/settings: name it in params.yaml"


@pytest.mark.parametrize("name", [name for name, field, named in settings(Params, RAW) if field.is_required()])
def test_a_missing_setting_is_named_with_the_line_to_add(name: str, tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    *sections, key = name.split(".")
    inner, former = raw, FORMER_DEFAULTS
    for section in sections:
        inner, former = inner[section], former.get(section, {})
    del inner[key]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError) as error:
        load_params(tmp_path / "params.yaml")
    message = str(error.value)
    assert f"'{name}' is missing" in message
    assert "\n" not in message
    if key in former:
        added = yaml.safe_load("{" + message.split("what has been in effect without it: ")[1] + "}")
        assert added == {key: former[key]}
