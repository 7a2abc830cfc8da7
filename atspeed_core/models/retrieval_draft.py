"""The draft of method dare: nothing is trained, candidates are sampled uniformly from the item trie.

DARE (arXiv 2408.05676) as AtSpeed compares with it: retrieved candidates, uniform over the valid codes after
a prefix. Its folder holds a config.json with the seed.
"""

from dataclasses import dataclass
from pathlib import Path

from atspeed_core.errors import UserError
from atspeed_core.files import read_json, replacing, write_json
from atspeed_core.models.draft_folder import CONFIG, drafter_of

KIND = "dare"


@dataclass(frozen=True)
class RetrievalDraft:
    """Samples the codes after a prefix uniformly.

    Attributes:
        seed: of the sampling.
    """

    seed: int


def save_retrieval(folder: str | Path, draft: RetrievalDraft, *, extra_files: dict[str, str] | None = None) -> None:
    """Write config.json and `extra_files`, all or nothing."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / CONFIG, {"drafter": KIND, "seed": draft.seed})
        for name, text in (extra_files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")


def load_retrieval(folder: str | Path) -> RetrievalDraft:
    """A saved draft.

    Raises:
        UserError: the folder holds none, or one without a seed.
    """
    seed = read_json(Path(folder) / CONFIG).get("seed") if drafter_of(folder) == KIND else None
    if not isinstance(seed, int):
        raise UserError(f"{folder}: no retrieval draft there; run align_draft with method dare")
    return RetrievalDraft(seed)
