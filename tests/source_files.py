"""Small files for the tests of data sources, and reading them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from atspeed_core.data.reading import SourceTables, read_source
from atspeed_core.data.sources import SOURCES
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData as PrepareDataSection
from tests.complete_params import PrepareData


def lines(*records: dict[str, Any] | str) -> bytes:
    """One record per line: dicts as JSON, strings as they are."""
    return "".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in records).encode()


def write(folder: Path, **files: str | bytes) -> Path:
    """Files named with "__" for a dot; those that end with gz are gzipped."""
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return folder


def settings_of(path: Path, source: str, **settings: Any) -> PrepareDataSection:
    """The section `prepare_data` that reads `path` with nothing filtered out."""
    split = "published" if SOURCES.get(source).is_split else "leave_one_out"
    return PrepareData(dataset="t", source=source, path=str(path), **({"split": split, "k_core": 1} | settings))


def read(path: Path, source: str, **settings: Any) -> SourceTables:
    """What the source reads from `path`."""
    return read_source(settings_of(path, source, **settings))


def mistake(path: Path, source: str, **settings: Any) -> str:
    """The one line that the source says of wrong files at `path`."""
    with pytest.raises(UserError) as error:
        read(path, source, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def interactions(source: SourceTables) -> list[tuple[Any, ...]]:
    """The rows of the interactions."""
    return [tuple(row) for row in source.interactions.itertuples(index=False)]
