"""Reading what earlier stages wrote; the error about a missing or damaged file names the stage that writes it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from atspeed_core.errors import UserError
from atspeed_core.files import read_json


def read_stage_json(path: str | Path, stage: str) -> dict[str, Any]:
    """Read a JSON object that `stage` wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the {stage} stage first") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); run the {stage} stage again") from None
    return content


def read_stage_parquet(path: str | Path, stage: str) -> pd.DataFrame:
    """Read a parquet file that `stage` wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the {stage} stage first") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable parquet file ({reason}); run the {stage} stage again") from None


def rows_by_k(figures: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(K, figures) of the keys that are numbers, in their order."""
    return ((key, value) for key, value in figures.items() if key.isdigit())
