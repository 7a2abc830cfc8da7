"""Presets laid over params.yaml: of data sets (presets/datasets/) and of models (presets/targets/)."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atspeed_core.errors import UserError
from atspeed_core.files import replacing
from atspeed_core.settings import load_params
from tasks.deployment.preset import PRESETS, load_preset

DATASETS, TARGETS = PRESETS / "datasets", PRESETS / "targets"
# Of these a preset gives all: a setting that it does not name belongs to another data set or target.
WHOLE = ("prepare_data", "finetune_target")
ALTERNATIVES = {"architecture": "base_model", "base_model": "architecture"}  # naming one takes the other away


def lay_presets(path: Path, presets: Sequence[Path]) -> None:
    """Lay presets (files without their .yaml) over the file `path` one after the other, all or none.

    Raises:
        UserError: there is no such preset, or the params are wrong before or after.
    """
    load_params(path)
    changed = with_presets(path.read_text(encoding="utf-8"), presets)
    with replacing(path) as temporary:
        temporary.write_text(changed, encoding="utf-8")
        try:
            load_params(temporary)
        except UserError as error:
            fault = str(error).replace(str(temporary), str(path))
            raise UserError(" and ".join(f"{preset}.yaml" for preset in presets) + f" over {fault}") from None


def with_presets(text: str, presets: Sequence[Path]) -> str:
    """The YAML document `text` with presets (files without their .yaml) laid over it one after the other.

    Raises:
        UserError: there is no such preset.
    """
    for preset in presets:
        text = laid_over(text, load_preset(preset.name, preset.parent).params, whole=WHOLE)
    return text


def laid_over(text: str, changes: dict[str, Any], *, whole: Sequence[str] = ()) -> str:
    """The YAML document `text` with `changes` laid over it; comments, order and notation of the rest are kept.

    Of the sections `whole` nothing stays that `changes`, where they name the section, do not give.
    """
    yaml = YAML()
    yaml.width = 4096  # lines stay as long as they are
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    document = yaml.load(text)
    for section in (section for section in whole if section in changes):
        _drop_others(document[section], changes[section])
    _lay(document, changes)
    written = io.StringIO()
    yaml.dump(document, written)
    return written.getvalue()


def _drop_others(section: Any, given: dict[str, Any]) -> None:
    for key in list(section):
        if key not in given:
            del section[key]
        elif isinstance(section[key], dict) and isinstance(given[key], dict):
            _drop_others(section[key], given[key])


def _lay(section: Any, changes: dict[str, Any]) -> None:
    for place, (key, value) in enumerate(changes.items()):
        section.pop(ALTERNATIVES.get(key), None)
        if key not in section:
            section.insert(place, key, value)
        elif isinstance(value, dict) and isinstance(section[key], dict):
            _lay(section[key], value)
        elif section[key] != value:  # an equal value keeps its notation
            section[key] = value
