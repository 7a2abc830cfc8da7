"""The published AtSpeed data: training, validation and testing lists in .npy files, already split, without times."""

from pathlib import Path

import pandas as pd

from atspeed_core.data.sources.origins import RELEASE, missing
from atspeed_core.data.sources.published_lists import read_lists
from atspeed_core.data.sources.table import read_items
from atspeed_core.data.tables import Table
from atspeed_core.settings import PrepareData

FILES = {"train": "training_dict.npy", "valid": "validation_dict.npy", "test": "testing_dict.npy"}


def read(settings: PrepareData) -> tuple[Table, Table | None]:
    """Read the three parts in the folder `settings.path`; titles from `settings.items_path`, if that is set.

    Ids are the release's whole numbers as strings. A user's empty list leaves no row.

    Raises:
        UserError: a file is missing or holds anything but lists of item numbers by user number.
    """
    folder = Path(settings.path)
    for name in FILES.values():
        if not (folder / name).is_file():
            raise missing(folder / name, RELEASE)
    rows = [
        (str(user), str(item), part)
        for part, name in FILES.items()
        for user, items in read_lists(folder / name).items()
        for item in items
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "part"], dtype="str")
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="row")
    names = {name: name for name in ("user_id", "item_id", "part")}
    return Table(frame, folder, names), read_items(settings.items_path, settings.columns)
