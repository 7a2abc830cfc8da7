"""`python -m tasks.use_preset datasets/beauty targets/qwen`: sets a data set and models in params.yaml.

A preset is a file below presets/datasets/ or presets/targets/. Its sections prepare_data and finetune_target replace
those in params.yaml; in other sections it changes the settings that it names. Everything else in params.yaml, including
comments, stays as it is.
"""

from pathlib import Path
from typing import Annotated

import typer

from atspeed_core.data.sources import absent
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData, load_params
from tasks.params_file import apply_presets
from tasks.presets import DATASETS, PRESETS, TARGETS, load_preset
from tasks.stage import ParamsPath, exit_codes, set_up_logging

KINDS = (DATASETS.name, TARGETS.name)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help="datasets/NAME, targets/NAME; default: list them.")] = None,
    params: ParamsPath = Path("params.yaml"),
) -> None:
    """Switch to another data set, other models or both, or list the presets."""
    set_up_logging("use_preset")
    with exit_codes():
        if not names:
            print(listing())
            return
        apply_presets(params, [preset_path(name) for name in names])
        print(next_step(load_params(params).prepare_data))


def listing() -> str:
    """KIND/NAME and description of every preset, one per line."""
    files = [path for kind in KINDS for path in sorted((PRESETS / kind).glob("*.yaml"))]
    presets = {f"{path.parent.name}/{path.stem}": load_preset(path.stem, path.parent).description for path in files}
    return "\n".join(f"{name:<31}{description}" for name, description in presets.items())


def preset_path(name: str) -> Path:
    """The file of the preset `name`, KIND/NAME, without its .yaml.

    Raises:
        UserError: no such kind.
    """
    kind, _, stem = name.partition("/")
    if kind not in KINDS or not stem or "/" in stem:
        raise UserError(f"{name}: not a preset; use " + " or ".join(f"{kind}/NAME" for kind in KINDS))
    return PRESETS / kind / stem


def next_step(settings: PrepareData) -> str:
    """The next step: run, or get the files first."""
    selection = f"params.yaml: {settings.dataset} (source {settings.source}, {settings.path})"
    missing = absent(settings)
    return f"{selection}\n{missing}; then: make run" if missing else f"{selection}\nnext: make run"


if __name__ == "__main__":
    app()
