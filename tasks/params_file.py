"""Changes of params.yaml by presets, by a night and by hand: what is not changed stays as it is written."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atspeed_core.errors import UserError
from atspeed_core.files import replacing
from atspeed_core.settings import load_params
from tasks.presets import load_preset

# A preset of a data set or target specifies these completely: what it does not name belongs to another one.
WHOLE = ("prepare_data", "finetune_target")
ALTERNATIVES = {"architecture": "base_model", "base_model": "architecture"}  # naming one takes the other away


def apply_presets(path: Path, presets: Sequence[Path]) -> None:
    """Apply presets (files without their .yaml) to the file `path` one after the other, all or none.

    Raises:
        UserError: there is no such preset, or the params are wrong before or after.
    """
    load_params(path)
    text = with_presets(path.read_text(encoding="utf-8"), presets)
    write_params(path, text, source=" and ".join(f"{preset}.yaml" for preset in presets))


def write_params(path: Path, text: str, *, source: str) -> None:
    """Write a params.yaml if it is valid; otherwise the file stays as it is.

    Args:
        path: of the file.
        text: its new content.
        source: where the changes come from, for the message.

    Raises:
        UserError: the params are wrong.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        try:
            load_params(temporary)
        except UserError as error:
            fault = str(error).replace(str(temporary), path.name)
            raise UserError(f"{source} over {fault}") from None


def with_presets(text: str, presets: Sequence[Path]) -> str:
    """The YAML document `text`, changed by presets (files without their .yaml) one after the other.

    Raises:
        UserError: there is no such preset.
    """
    for preset in presets:
        text = with_changes(text, load_preset(preset.name, preset.parent).params, whole=WHOLE)
    return text


def with_changes(text: str, changes: dict[str, Any], *, whole: Sequence[str] = ()) -> str:
    """The YAML document `text` with `changes`; comments, order and notation of everything else stay.

    Args:
        text: a params.yaml.
        changes: section -> what changes in it.
        whole: sections that `changes`, where they name one, specify completely: no other setting stays in it.
    """
    yaml = YAML()
    yaml.width = 4096  # lines stay as long as they are
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    document = yaml.load(text)
    for section in (section for section in whole if section in changes):
        _drop_others(document[section], changes[section])
    _apply(document, changes)
    changed = io.StringIO()
    yaml.dump(document, changed)
    return changed.getvalue()


def merged(first: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    """Changes as one: nested mappings are merged, any other value replaces the earlier one."""
    result = dict(first)
    for other in others:
        for key, value in other.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def nested(key: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for the key "a.b"."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def _drop_others(section: Any, settings: dict[str, Any]) -> None:
    for key in list(section):
        if key not in settings:
            del section[key]
        elif isinstance(section[key], dict) and isinstance(settings[key], dict):
            _drop_others(section[key], settings[key])


def _apply(section: Any, changes: dict[str, Any]) -> None:
    for place, (key, value) in enumerate(changes.items()):
        section.pop(ALTERNATIVES.get(key), None)
        if key not in section:
            section.insert(place, key, value)
        elif isinstance(value, dict) and isinstance(section[key], dict):
            _apply(section[key], value)
        elif section[key] != value:  # an equal value keeps its notation
            section[key] = value
