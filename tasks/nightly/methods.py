"""Restricts a checkout's dvc.yaml to the draft methods of its night."""

import io
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from ruamel.yaml import YAML

from atspeed_core.files import replacing
from atspeed_core.settings import Method


def keep_methods(checkout: Path, methods: Iterable[str]) -> None:
    """Leave in dvc.yaml of `checkout`, comments included, what belongs to `methods` or to no method.

    That is every matrix, dependencies and artifacts with a method in their path, and the columns of plots. The
    locked stages of the other methods leave dvc.lock.
    """
    absent = set(get_args(Method)) - set(methods)
    if not absent:
        return
    for name, without in (("dvc.yaml", _wiring_without), ("dvc.lock", _lock_without)):
        path = checkout / name
        if path.exists():
            _rewrite(path, without, absent)


def _rewrite(path: Path, without: Any, absent: set[str]) -> None:
    yaml = YAML()
    yaml.width = 1 << 16
    if path.suffix == ".yaml":
        yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(path.read_text(encoding="utf-8"))
    without(content, absent)
    text = io.StringIO()
    yaml.dump(content, text)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _wiring_without(wiring: dict[str, Any], absent: set[str]) -> None:
    for stage in wiring["stages"].values():
        _filter(stage.get("matrix", {}).get("method", []), lambda method: method in absent)
        _filter(stage.get("deps", []), lambda dep: _method_in(str(dep)) in absent)
    for plot in wiring.get("plots", []):
        for settings in plot.values():
            for columns in settings["y"].values():
                _filter(columns, lambda column: _method_before(column) in absent)
    artifacts = wiring.get("artifacts", {})
    for name in [name for name, artifact in artifacts.items() if _method_in(artifact["path"]) in absent]:
        del artifacts[name]


def _lock_without(lock: dict[str, Any], absent: set[str]) -> None:
    stages = lock.get("stages", {})
    for name in [name for name in stages if name.partition("@")[2] in absent]:
        del stages[name]


def _filter(values: Any, unwanted: Any) -> None:
    for position in reversed(range(len(values))):
        if unwanted(values[position]):
            del values[position]


def _method_in(path: str) -> str | None:
    """The method in a path, as in models/drafts/sft/curves.csv or results/sft.json; code belongs to all methods."""
    if path.endswith(".py"):
        return None
    parts = {PurePosixPath(part).stem for part in path.split("/")}
    return next((method for method in get_args(Method) if method in parts), None)


def _method_before(column: str) -> str | None:
    """The method that a plot's column begins with, as in atspeed_s_strict."""
    return max((m for m in get_args(Method) if column.startswith(f"{m}_")), key=len, default=None)
