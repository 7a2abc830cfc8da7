"""Where a public data set can be downloaded, on what terms, and what a user reads who lacks a file of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atspeed_core.errors import UserError

RESEARCH = "for research, with citation; no licence to redistribute"


@dataclass(frozen=True)
class Origin:
    """A data set that its users download themselves.

    Attributes:
        name: of the data set.
        files: what is needed of it.
        page: the official address, where terms and downloads are.
        terms: in a few words; the page has them in full.
    """

    name: str
    files: str
    page: str
    terms: str

    def __str__(self) -> str:
        """E.g. "Steam: reviews.json.gz from https://... (terms)"."""
        return f"{self.name}: {self.files} from {self.page} ({self.terms})"


def located(path: Path, patterns: list[str], what: str, origins: Sequence[Origin]) -> Path:
    """The one file that matches: `path` itself, or a file in the folder `path`.

    Args:
        path: what the user named.
        patterns: of file names, as in glob.
        what: the file in words.
        origins: where it can be downloaded.

    Raises:
        UserError: there is none (the line says where to get it) or more than one.
    """
    if path.is_file():
        return path
    matches = sorted({file for pattern in patterns for file in path.glob(pattern)})
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(file.name for file in matches)
        raise UserError(f"{path}: several files of {what} ({names}); name one of them in prepare_data.path")
    where = "in it" if path.is_dir() else "there: no such file or folder"
    raise UserError(f"{path}: no {what} ({_any_of(patterns)}) {where}; {where_to_get(origins)}")


def missing(path: Path, origins: Sequence[Origin]) -> UserError:
    """The error for a file that does not exist: which one, where to get it, on what terms."""
    return UserError(f"{path}: no such file; {where_to_get(origins)}")


def where_to_get(origins: Sequence[Origin]) -> str:
    """What to do when a file is missing: set its path, or download it."""
    downloads = f", or get {'; '.join(map(str, origins))}" if origins else ""
    return f"set prepare_data.path{downloads}"


def _any_of(patterns: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(patterns[:-1]), patterns[-1])))
