"""The kind of draft in a folder, by its config.json."""

from pathlib import Path

from atspeed_core.files import read_json

CONFIG = "config.json"


def drafter_of(folder: str | Path) -> str | None:
    """The drafter that config.json names, such as "one_shot"; None for a language model, whose file names none."""
    try:
        config = read_json(Path(folder) / CONFIG)
    except (OSError, ValueError):
        return None
    return config.get("drafter") if isinstance(config, dict) else None
