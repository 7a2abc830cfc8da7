"""Which code makes which stage stale: derived from the imports, written into dvc.yaml.

    python -m scripts.stage_code wire     # after a module has moved or an import has changed
    python -m scripts.stage_code stale    # one row per core file: the stages that a change there makes stale

A stage depends on every module that its command imports, directly or through others, and on no other. Imports for type
checking alone do not count, nor does the shell around every stage, where a change alters no figure.
"""

import fnmatch
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import grimp
import typer
import yaml
from ruamel.yaml import YAML

from atspeed_core.files import replacing
from tasks.stage import exit_codes, set_up_logging

ROOT = Path(__file__).resolve().parents[1]

# The shell around every stage: modules, with all below them.
SHELL = (
    *(f"atspeed_core.{name}" for name in ("errors", "files", "progress", "settings", "validation", "variants")),
    *(f"tasks.{name}" for name in ("launch", "paths", "stage", "threads")),
)
# Started as a process of its own rather than imported.
STARTED = {"finetune_target": "atspeed_core.training.finetune"}
# Packages of which a stage uses one variant, by the template that names it in the stage's dependencies.
ONE_VARIANT = {"atspeed_core.methods": "${item.method}", "atspeed_core.data.sources": "${prepare_data.source}"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def wire(file: Annotated[Path, typer.Option(help="The file to write.")] = ROOT / "dvc.yaml") -> None:
    """Set the code that each stage of dvc.yaml depends on; comments and everything else stay."""
    set_up_logging("stage_code")
    with exit_codes():
        notation = YAML()
        notation.width = 4096
        notation.indent(mapping=2, sequence=4, offset=2)
        document, imports = notation.load(file.read_text(encoding="utf-8")), Imports()
        for name, stage in document["stages"].items():
            stage["deps"][:] = [dep for dep in stage["deps"] if not is_code(dep)] + imports.code_of(name)
        text = io.StringIO()
        notation.dump(document, text)
        with replacing(file) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")


@app.command()
def stale(files: Annotated[list[str] | None, typer.Argument(help="Core files; default: all.")] = None) -> None:
    """Print the stages that a change of each core file makes stale, in the order in which they run."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    core = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "atspeed_core").rglob("*.py"))
    counts = []
    for file in files or core:
        names = stale_stages(file, stages)
        counts.append(len(names))
        print(f"{file}\t{len(names)}\t{' '.join(names) or '-'}")
    print(f"mean over {len(counts)} files: {sum(counts) / len(counts):.2f} of {len(stages)} stages")


def is_code(dependency: str) -> bool:
    """Whether a dependency of a stage is code of ours rather than data."""
    return dependency.startswith(("atspeed_core/", "tasks/"))


def stale_stages(file: str, stages: dict[str, Any]) -> list[str]:
    """The stages that depend on `file` or on an output of another such stage, in the order of `stages`.

    Args:
        file: path of a code file.
        stages: the section of dvc.yaml; a stage stands below those whose outputs it reads.
    """
    names, changed = list[str](), {file}
    for name, stage in stages.items():
        patterns = [_any_variant(dep) for dep in stage["deps"]]
        if any(_covers(pattern, path) for pattern in patterns for path in changed):
            names.append(name)
            changed |= {_any_variant(out if isinstance(out, str) else next(iter(out))) for out in stage["outs"]}
    return names


def _any_variant(path: str) -> str:
    for template in ONE_VARIANT.values():
        path = path.replace(template, "*")
    return path


def _covers(dependency: str, path: str) -> bool:
    """Whether a change of `path` is one of `dependency`: the same file, or one of them inside the other."""
    inside = fnmatch.fnmatch(path, dependency) or path.startswith(f"{dependency}/")
    return inside or dependency.startswith(f"{path}/") or fnmatch.fnmatch(dependency, path)


@dataclass
class Imports:
    """Who imports whom in `atspeed_core` and `tasks`, the shell left out."""

    graph: Any = field(default_factory=lambda: _graph())

    def code_of(self, stage: str) -> list[str]:
        """The code that `stage` depends on: files, folders of variants, and templates of one variant; sorted."""
        reached, pending = set[str](), [f"tasks.{stage}", *([STARTED[stage]] if stage in STARTED else [])]
        while pending:
            module = pending.pop()
            if module not in reached:
                reached.add(module)
                pending += self.graph.find_modules_directly_imported_by(module)
                pending += self.graph.find_children(module) if declares_variants(module) else ()
        task = f"tasks/{stage}.py"
        return [*sorted({self._dependency(module) for module in reached} - {task}), task]

    def _dependency(self, module: str) -> str:
        package = module.rpartition(".")[0]
        if not declares_variants(package):
            return f"{_path(module)}{'/__init__' if self.graph.find_children(module) else ''}.py"
        template = ONE_VARIANT.get(package)
        return f"{_path(package)}/{template}.py" if template else _path(package)


def _graph() -> Any:
    graph = grimp.build_graph("atspeed_core", "tasks", cache_dir=None, exclude_type_checking_imports=True)
    for module in sorted(graph.modules):
        if any(module == name or module.startswith(f"{name}.") for name in SHELL):
            graph.remove_module(module)
    return graph


def declares_variants(module: str) -> bool:
    """Whether a module is a package of variants (see `atspeed_core.variants`), which no import statement names."""
    init = ROOT / _path(module) / "__init__.py"
    return init.exists() and "= Variants(" in init.read_text(encoding="utf-8")


def _path(module: str) -> str:
    return module.replace(".", "/")


if __name__ == "__main__":
    app()
