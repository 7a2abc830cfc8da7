"""RecBole atomic files: NAME.inter and NAME.item, tab-separated, with typed headers such as "user_id:token".

Data sets choose the names of their fields (Yelp: business_id, stars, date); `columns` gives their meaning.
"""

from pathlib import Path

import pandas as pd

from atspeed_core.data.compact import compacted
from atspeed_core.data.descriptions import joined
from atspeed_core.data.origins import Origin, located
from atspeed_core.data.sources import Source
from atspeed_core.data.tables import Table, first_line, read_delimited, read_delimited_chunks, require_columns
from atspeed_core.errors import UserError
from atspeed_core.settings import Columns, PrepareData

ORIGINS = (
    Origin(
        "RecBole",
        "NAME.inter and NAME.item",
        "https://recbole.io/dataset_list.html",
        "those of the data set itself",
    ),
)

TYPES = ("token", "token_seq", "float", "float_seq")
REMEDY = "set prepare_data.columns to the fields of user and item"


def read(settings: PrepareData) -> tuple[Table, Table | None]:
    """Read the one .inter file in the folder `settings.path` and the .item file next to it, if there is one.

    `settings.columns` names the fields; rating and timestamp may be absent unless they are named there. The item's
    id in .item is the field of that name, item_id or id. The title is `columns.title`, or the first text field whose
    name holds "title" or "name"; the text is every text field.

    Raises:
        UserError: not exactly one .inter file, a field without a known type, or a named field is missing.
    """
    path = located(Path(settings.path), ["*.inter"], "interactions", ORIGINS)
    types = _types(path)
    names = _names(settings.columns, types)
    frames = (frame.set_axis(list(types), axis=1) for frame in read_delimited_chunks(path, "\t", quoted=False))
    interactions = compacted(frames, path, names, remedy=REMEDY)
    items_path = path.with_suffix(".item")
    return interactions, _items(items_path, settings.columns) if items_path.is_file() else None


def _names(columns: Columns, types: dict[str, str]) -> dict[str, str]:
    """Our name of a field -> its name in the file."""
    names = {"user_id": columns.user, "item_id": columns.item}
    optional = {"rating": columns.rating, "timestamp": columns.timestamp}
    wanted = {ours for ours in optional if ours in columns.model_fields_set}
    return names | {ours: name for ours, name in optional.items() if name and (name in types or ours in wanted)}


def _items(path: Path, columns: Columns) -> Table:
    types = _types(path)
    frame = read_delimited(path, "\t", quoted=False).set_axis(list(types), axis=1)
    item = next((name for name in (columns.item, "item_id", "id") if name in types), columns.item)
    require_columns(frame, path, [item], "name it in prepare_data.columns")
    fields = [name for name, kind in types.items() if kind in ("token", "token_seq") and name != item]
    titled = next((name for name in fields if name == columns.title or "title" in name or "name" in name), None)
    title = frame[titled] if titled is not None else ""
    described = sorted(fields, key=lambda name: name != titled)  # the title first
    items = pd.DataFrame({"item_id": frame[item], "title": title, "text": joined(frame, described)})
    return Table(items, path, {name: name for name in ("item_id", "title", "text")})


def _types(path: Path) -> dict[str, str]:
    """Each field's type, by the header."""
    header = first_line(path)
    fields = [column.rpartition(":") for column in header.split("\t")] if header else []
    untyped = [name + colon + kind for name, colon, kind in fields if not name or kind not in TYPES]
    if untyped:
        wanted = f"write NAME:TYPE with TYPE one of {', '.join(TYPES)}"
        raise UserError(f"{path}: line 1: fields without a known type: {', '.join(untyped)}; {wanted}")
    return {name: kind for name, _, kind in fields}


SOURCE = Source(
    name="recbole",
    order=60,
    summary="a folder with RecBole's atomic files (`.inter`, `.item`); `columns` names their fields",
    read=read,
    origins=ORIGINS,
    uses=("columns",),
)
