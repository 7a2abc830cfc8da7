"""Which draft methods the pipeline trains and evaluates: a command that writes them into dvc.yaml.

    python -m tasks.wire_methods sft wordkd seqkd dare atspeed_s

DVC can read a matrix from params, but not a list of dependencies, and report depends on the results of every method.
Therefore the methods are named in dvc.yaml itself, and this command sets them. The nights use it as well.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from atspeed_core.errors import UserError
from atspeed_core.files import replacing
from atspeed_core.methods import METHODS
from tasks.stage import exit_codes, set_up_logging

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    methods: Annotated[list[str], typer.Argument(help=f"Of {', '.join(METHODS.all())}; or all.")],
) -> None:
    """Set the draft methods of dvc.yaml; `make run` then trains and evaluates these."""
    set_up_logging("wire_methods")
    with exit_codes():
        wire_methods(Path(), list(METHODS.all()) if methods == ["all"] else known_methods(methods))


def known_methods(names: Sequence[str]) -> list[str]:
    """The draft methods in `names`, each once, in their order.

    Raises:
        UserError: one is unknown.
    """
    known = METHODS.all()
    if unknown := sorted(set(names) - set(known)):
        raise UserError(f"methods: unknown '{unknown[0]}'; known: {', '.join(known)}")
    return [method for method in known if method in names]


def wire_methods(checkout: Path, methods: Sequence[str]) -> None:
    """Make dvc.yaml of `checkout` hold `methods` and no other, comments included.

    That is every matrix, dependencies and artifacts with a method in their path, and the columns of plots. The
    locked stages of other methods leave dvc.lock.
    """
    for name, rewired in (("dvc.yaml", _set_wiring), ("dvc.lock", _drop_locked)):
        if (checkout / name).exists():
            _rewrite(checkout / name, rewired, list(methods))


def _rewrite(path: Path, change: Callable[[Any, list[str]], bool], methods: list[str]) -> None:
    yaml = YAML()
    yaml.width = 1 << 16
    if path.suffix == ".yaml":
        yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(path.read_text(encoding="utf-8"))
    if not change(content, methods):
        return
    text = io.StringIO()
    yaml.dump(content, text)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _set_wiring(wiring: dict[str, Any], methods: list[str]) -> bool:
    """Set the methods in the content of a dvc.yaml; returns whether that changed anything."""
    matrices = [stage["matrix"]["method"] for stage in wiring["stages"].values() if "matrix" in stage]
    if all(list(matrix) == methods for matrix in matrices):
        return False
    for matrix in matrices:
        _set(matrix, methods, str)
    for stage in wiring["stages"].values():
        _set(stage.get("deps", []), methods, _method_in)
    for plot in wiring.get("plots", []):
        for settings in plot.values():
            for columns in settings["y"].values():
                _set(columns, methods, _method_before)
    if artifacts := wiring.get("artifacts"):
        _set_artifacts(artifacts, methods)
    return True


def _set(values: Any, methods: list[str], method_in: Callable[[str], str | None]) -> None:
    """Replace every entry of `values` that names a method by one for each of `methods`; the others stay."""
    entries, places, others = list(values), dict[str, int](), 0
    for entry in entries:
        if (method := method_in(entry)) is None:
            others += 1
        else:
            places.setdefault(entry.replace(method, "{}"), others)
    for position in reversed(range(len(entries))):
        if method_in(entries[position]) is not None:
            del values[position]
    for pattern, place in reversed(places.items()):
        for method in reversed(methods):
            values.insert(place, pattern.format(method))


def _set_artifacts(artifacts: dict[str, Any], methods: list[str]) -> None:
    drafts = {m: artifacts.pop(name) for name in list(artifacts) if (m := _method_in(artifacts[name]["path"]))}
    for method in methods:
        new = {"path": f"models/drafts/{method}", "type": "model", "desc": METHODS.get(method).summary}
        artifacts[f"draft-{method.replace('_', '-')}"] = drafts.get(method, new)


def _drop_locked(lock: dict[str, Any], methods: list[str]) -> bool:
    stages = lock.get("stages", {})
    absent = [name for name in stages if "@" in name and name.partition("@")[2] not in methods]
    for name in absent:
        del stages[name]
    return bool(absent)


def _method_in(path: str) -> str | None:
    """The method in a path, as in models/drafts/sft/curves.csv or results/sft.json; code belongs to all methods."""
    if path.endswith(".py"):
        return None
    parts = {PurePosixPath(part).stem for part in path.split("/")}
    return next((method for method in METHODS.names() if method in parts), None)


def _method_before(column: str) -> str | None:
    """The method that a plot's column begins with, as in atspeed_s_strict."""
    return max((m for m in METHODS.names() if column.startswith(f"{m}_")), key=len, default=None)


if __name__ == "__main__":
    app()
