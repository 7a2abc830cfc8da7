"""Whether a training may start from the champion.

The champion's folder (stage warm_start) holds origin.json ({"commit", "base_model", "draft_base_model"}; commit null:
there is no champion), identifiers/, target/ and drafts/METHOD/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atspeed_core.errors import UserError
from atspeed_core.files import read_json
from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.settings import Architecture

SCRATCH, TARGET = "scratch", "target"


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        folder: of the champion's model; None: from scratch (or from the base model of the settings).
        origin: the champion's commit, or "scratch".
        reason: why, in words.
    """

    folder: Path | None
    origin: str
    reason: str


def choose_start(
    champion: Path, part: str, catalog: Catalog, *, architecture: Architecture | None, base_model: str | None = None
) -> Start:
    """Start from `part` ("target", "drafts/METHOD") of the champion where it fits, from scratch where it does not.

    It fits where every item that the champion knew has kept its identifier, and the shape (for a model with a base
    model: the base model's name, of target or drafts) is that of the settings.

    Raises:
        UserError: origin.json cannot be read.
    """
    origin = read_origin(champion)
    if origin["commit"] is None:
        return Start(None, SCRATCH, "no champion is given (warm_start.commit)")
    folder = champion / part
    if not folder.is_dir():
        return Start(None, SCRATCH, f"the champion has no {part}")
    if not keeps_identifiers(Catalog.load(champion / "identifiers" / "identifiers.json"), catalog):
        return Start(None, SCRATCH, "the champion's items have other identifiers now")
    earlier = origin["base_model" if part == TARGET else "draft_base_model"]
    if base_model is not None and base_model != earlier:
        return Start(None, SCRATCH, f"the champion's base_model is {earlier}, not {base_model}")
    if architecture is not None and (differing := shape_difference(folder, architecture)):
        return Start(None, SCRATCH, f"the champion's {part} has another shape: {differing}")
    return Start(folder, origin["commit"], f"the champion's {part}")


def read_origin(champion: Path) -> dict[str, Any]:
    """The content of origin.json; no champion where the folder was not made (a stage that is run by hand).

    Raises:
        UserError: the file is damaged.
    """
    path = champion / "origin.json"
    if not path.exists():
        return {"commit": None, "base_model": None, "draft_base_model": None}
    try:
        raw = read_json(path)
        return {"commit": raw["commit"], **{name: raw.get(name) for name in ("base_model", "draft_base_model")}}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{path}: damaged; run the warm_start stage again") from None


def keeps_identifiers(earlier: Catalog, catalog: Catalog) -> bool:
    """Whether the catalogs share items, and each of these has the same identifier in both."""
    before, now = earlier.identifiers(), catalog.identifiers()
    both = before.keys() & now.keys()
    return bool(both) and all(before[item] == now[item] for item in both)


def shape_difference(folder: Path, architecture: Architecture) -> str:
    """In what a saved model differs from `architecture` (dropout is no weight); empty where it does not."""
    from transformers import AutoConfig  # takes seconds, and without a champion nothing is compared

    wanted = {
        "model_type": "llama",
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "intermediate_size": architecture.intermediate_size,
        "tie_word_embeddings": architecture.tie_embeddings,
    }
    try:
        saved = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no usable model there ({' '.join(str(error).split()):.160})") from None
    differing = [f"{name} {saved.get(name)}, now {value}" for name, value in wanted.items() if saved.get(name) != value]
    return "; ".join(differing)
