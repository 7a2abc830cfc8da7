"""Reads the output of prepare_data: training sequences, evaluation examples and items."""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from atspeed_core.errors import UserError


@dataclass(frozen=True)
class Example:
    """One user of the validation or test part.

    Attributes:
        user: user id.
        history: the user's earlier items, oldest first, at most `max_history` items.
        targets: the held-out items.
    """

    user: str
    history: list[str]
    targets: list[str]


def load_train(folder: str | Path) -> dict[str, list[str]]:
    """User id -> training items, oldest first."""
    frame = _read(Path(folder) / "train.parquet")
    return {user: list(items) for user, items in zip(frame["user_id"], frame["item_ids"], strict=True)}


def load_examples(folder: str | Path, part: str) -> list[Example]:
    """The examples of `part` ("valid" or "test")."""
    frame = _read(Path(folder) / f"{part}.parquet")
    columns = (frame["user_id"], frame["history"], frame["targets"])
    return [Example(user, list(history), list(targets)) for user, history, targets in zip(*columns, strict=True)]


def load_full_examples(folder: str | Path, part: str) -> list[Example]:
    """The examples of `part` with all items of a user before the held-out ones, not the truncated history.

    These are the training items and, for the test part, the validation targets. If they are fewer than the history in
    the file, which is possible in a published split, the latter is used.
    """
    known = load_train(folder)
    if part == "test":
        for example in load_examples(folder, "valid"):
            known[example.user] = [*known.get(example.user, []), *example.targets]
    examples = load_examples(folder, part)
    return [replace(e, history=max(known.get(e.user, []), e.history, key=len)) for e in examples]


def load_items(folder: str | Path) -> pd.DataFrame:
    """item_id, title, text; one row per item."""
    return _read(Path(folder) / "items.parquet")


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the prepare_data stage first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable parquet file ({error}); run the prepare_data stage again") from None
