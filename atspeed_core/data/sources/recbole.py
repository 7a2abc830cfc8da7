"""RecBole atomic files: NAME.inter and NAME.item, tab-separated, with typed headers such as "user_id:token"."""

from pathlib import Path

import pandas as pd

from atspeed_core.data.sources.table import joined
from atspeed_core.data.tables import Table, read_delimited, require_columns
from atspeed_core.errors import UserError
from atspeed_core.settings import PrepareData

TYPES = ("token", "token_seq", "float", "float_seq")
OPTIONAL = ("rating", "timestamp")


def read(settings: PrepareData) -> tuple[Table, Table | None]:
    """Read the one .inter file in the folder `settings.path` and the .item file beside it, if there is one.

    The title is the first text field whose name holds "title" or "name"; the text is every text field.

    Raises:
        UserError: not exactly one .inter file, a field without a known type, or user_id or item_id is missing.
    """
    path = _interactions_path(Path(settings.path))
    frame, types = _read(path)
    require_columns(frame, path, ["user_id", "item_id"], "name them so in the header")
    names = ["user_id", "item_id", *(name for name in OPTIONAL if name in types)]
    items_path = path.with_suffix(".item")
    items = _items(items_path) if items_path.is_file() else None
    return Table(frame, path, dict(zip(names, names, strict=True))), items


def _interactions_path(folder: Path) -> Path:
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{folder}: expected one .inter file in this folder, found {names}; set prepare_data.path")
    return found[0]


def _items(path: Path) -> Table:
    frame, types = _read(path)
    require_columns(frame, path, ["item_id"], "name it so in the header")
    fields = [name for name, kind in types.items() if kind in ("token", "token_seq") and name != "item_id"]
    titled = next((name for name in fields if "title" in name or "name" in name), None)
    title = frame[titled] if titled is not None else ""
    described = sorted(fields, key=lambda name: name != titled)  # the title first
    items = pd.DataFrame({"item_id": frame["item_id"], "title": title, "text": joined(frame, described)})
    return Table(items, path, {name: name for name in ("item_id", "title", "text")})


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """The frame with bare field names, and each field's type."""
    frame = read_delimited(path, "\t", quoted=False)
    fields = [str(column).rpartition(":") for column in frame.columns]
    untyped = [name + colon + kind for name, colon, kind in fields if not name or kind not in TYPES]
    if untyped:
        wanted = f"write NAME:TYPE with TYPE one of {', '.join(TYPES)}"
        raise UserError(f"{path}: line 1: fields without a known type: {', '.join(untyped)}; {wanted}")
    types = {name: kind for name, _, kind in fields}
    return frame.set_axis(list(types), axis=1), types
