"""`python -m tasks.use_dataset NAME`: put the settings of a data set into params.yaml.

A data set is a file in presets/datasets/: its section prepare_data takes the place of the one in params.yaml, of other
sections the settings that it names. Everything else in params.yaml, comments too, stays as it is.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from atspeed_core.data.sources.origins import absent
from atspeed_core.errors import UserError
from atspeed_core.files import replacing
from atspeed_core.settings import PrepareData, load_params
from tasks.nightly.preset import PRESETS, load_preset
from tasks.stage import ParamsPath, exit_codes, set_up_logging

DATASETS = PRESETS / "datasets"
# Of these a preset gives all: a setting that it does not name belongs to another data set or target.
WHOLE = ("prepare_data", "finetune_target")
ALTERNATIVES = {"architecture": "base_model", "base_model": "architecture"}  # naming one takes the other away

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str | None, typer.Argument(help="A file of presets/datasets/; none: list them.")] = None,
    params: ParamsPath = Path("params.yaml"),
) -> None:
    """Switch to another data set, or list the known ones."""
    set_up_logging("use_dataset")
    with exit_codes():
        if name is None:
            print(listing())
            return
        write_params(params, name)
        print(next_step(load_params(params).prepare_data))


def listing() -> str:
    """Name and description of every data set, a line each."""
    names = sorted(path.stem for path in DATASETS.glob("*.yaml"))
    return "\n".join(f"{name:<22}{load_preset(name, DATASETS).description}" for name in names)


def write_params(path: Path, name: str) -> None:
    """Lay the preset `name` over the file `path`, whole or not at all.

    Raises:
        UserError: there is no such preset, or the params are wrong before or after.
    """
    lay_presets(path, [DATASETS / name])


def lay_presets(path: Path, presets: Sequence[Path]) -> None:
    """Lay presets (files without their .yaml) over the file `path` one after the other, all or none.

    Raises:
        UserError: there is no such preset, or the params are wrong before or after.
    """
    all_changes = [load_preset(preset.name, preset.parent).params for preset in presets]
    load_params(path)
    changed = path.read_text(encoding="utf-8")
    for changes in all_changes:
        changed = laid_over(changed, changes)
    with replacing(path) as temporary:
        temporary.write_text(changed, encoding="utf-8")
        try:
            load_params(temporary)
        except UserError as error:
            fault = str(error).replace(str(temporary), str(path))
            raise UserError(" and ".join(f"{preset}.yaml" for preset in presets) + f" over {fault}") from None


def laid_over(text: str, changes: dict[str, Any]) -> str:
    """The YAML document `text` with `changes` laid over it; comments, order and notation of the rest are kept."""
    yaml = YAML()
    yaml.width = 4096  # lines stay as long as they are
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    document = yaml.load(text)
    for section in (section for section in WHOLE if section in changes):
        for gone in [key for key in document[section] if key not in changes[section]]:
            del document[section][gone]
    _lay(document, changes)
    written = io.StringIO()
    yaml.dump(document, written)
    return written.getvalue()


def next_step(settings: PrepareData) -> str:
    """What to do now: run, or first get the files."""
    chosen = f"params.yaml: {settings.dataset} (source {settings.source}, {settings.path})"
    missing = absent(settings)
    return f"{chosen}\n{missing}; then: make run" if missing else f"{chosen}\nnext: make run"


def _lay(section: Any, changes: dict[str, Any]) -> None:
    for place, (key, value) in enumerate(changes.items()):
        section.pop(ALTERNATIVES.get(key), None)
        if key not in section:
            section.insert(place, key, value)
        elif isinstance(value, dict) and isinstance(section[key], dict):
            _lay(section[key], value)
        elif section[key] != value:  # an equal value keeps its notation
            section[key] = value


if __name__ == "__main__":
    app()
