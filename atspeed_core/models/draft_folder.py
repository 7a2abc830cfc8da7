"""What kind of draft a folder holds, which its config.json says."""

from pathlib import Path

from atspeed_core.files import read_json

CONFIG = "config.json"


def drafter_of(folder: str | Path) -> str | None:
    """The drafter that config.json names ("one_shot", "dare"); None for a language model, which names none."""
    try:
        config = read_json(Path(folder) / CONFIG)
    except (OSError, ValueError):
        return None
    return config.get("drafter") if isinstance(config, dict) else None
