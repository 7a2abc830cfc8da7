"""Outputs appear whole or not at all: written beside their place, then moved into it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path (file or folder, for the caller to create) that takes `path`'s place.

    The move happens when the block ends without an error; after an error `path` is as it was.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        _move(temporary, final)
    finally:
        _remove(temporary)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _move(source: Path, final: Path) -> None:
    if final.is_dir() and not final.is_symlink():  # a folder cannot be replaced in one step
        old = final.with_name(f".{final.name}.{os.getpid()}.old")
        os.replace(final, old)
        os.replace(source, final)
        shutil.rmtree(old)
    else:
        os.replace(source, final)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def digest(paths: Iterable[str | Path], *texts: str) -> str:
    """Sixteen hexadecimal digits that change when a file's content or a text does."""
    total = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    for text in texts:
        total.update(hashlib.sha256(text.encode()).digest())
    return total.hexdigest()[:16]
