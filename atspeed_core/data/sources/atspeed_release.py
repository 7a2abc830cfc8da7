"""The published AtSpeed data: training, validation and testing lists in .npy files, already split, without times."""

from pathlib import Path

import pandas as pd

from atspeed_core.data.descriptions import read_item_table
from atspeed_core.data.origins import Origin, missing
from atspeed_core.data.published_lists import read_lists
from atspeed_core.data.sources import Source
from atspeed_core.data.tables import Table
from atspeed_core.settings import PrepareData

ORIGINS = (
    Origin(
        "AtSpeed",
        "training_dict.npy, validation_dict.npy and testing_dict.npy",
        "https://github.com/Linxyhaha/AtSpeed",
        "no licence is stated; the Amazon reviews are for research, with citation",
    ),
)

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
            raise missing(folder / name, ORIGINS)
    rows = [
        (str(user), str(item), part)
        for part, name in FILES.items()
        for user, items in read_lists(folder / name).items()
        for item in items
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "part"], dtype="str")
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="row")
    names = {name: name for name in ("user_id", "item_id", "part")}
    return Table(frame, folder, names), read_item_table(settings.items_path, settings.columns)


SOURCE = Source(
    name="atspeed_release",
    order=90,
    summary="the folder that the paper's authors released (`split: published`)",
    read=read,
    origins=ORIGINS,
    uses=("items_path", "columns"),
    is_split=True,
)
