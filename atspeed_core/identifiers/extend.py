"""Identifiers that stay from night to night: known items keep theirs, new ones get free ones; when all are made anew.

An item that left the data set is dropped; should it return, it is a new item, for its identifier may be taken by then.

Tonight's item vectors lie in another space than the champion's (both come from a decomposition of the night's own
data), so the champion's codebooks are of no use: they are fitted anew to the identifiers that stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atspeed_core.errors import UserError
from atspeed_core.files import read_json
from atspeed_core.identifiers.catalog import Catalog, read_identifiers
from atspeed_core.identifiers.collisions import place_in_branches
from atspeed_core.identifiers.quantization import FloatArray, Quantization, nearest
from atspeed_core.identifiers.trie import IntArray
from atspeed_core.settings import BuildIdentifiers

NEGLIGIBLE_ERROR = 0.05  # share of squared length; below it, identifiers are as good as exact and ratios say nothing


@dataclass(frozen=True)
class Earlier:
    """The champion's identifiers.

    Attributes:
        identifiers: {"item": ["<a_1>", ...]}.
        method: that made them.
        width: codes a level; None for identifiers from a file.
    """

    identifiers: dict[str, list[str]]
    method: str
    width: int | None


@dataclass(frozen=True)
class Assignment:
    """Codes for all items.

    Attributes:
        quantization: the codebooks, and the nearest codes.
        codes: [items, levels] int64, the codes given in the end, collisions resolved.
    """

    quantization: Quantization
    codes: IntArray

    def error(self, vectors: FloatArray) -> float:
        """Share of the squared length of item vectors that the codes leave, each standing for the mean of its items.

        So identifiers are compared in one space, whatever their codebooks are made of (latents for RQ-VAE).
        """
        books = refit(vectors, self.codes, self.quantization.width)
        return Quantization(vectors, books, self.codes).errors(self.codes)[-1]


def load_earlier(folder: Path) -> Earlier | None:
    """Read identifiers.json and report.json of a folder of the stage; None where there is no such folder.

    Raises:
        UserError: one of the files is missing or damaged.
    """
    if not folder.is_dir():
        return None
    identifiers = read_identifiers(folder / "identifiers.json")
    try:
        report = read_json(folder / "report.json")
        return Earlier(identifiers, report["method"], report["codebook_width"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / 'report.json'}: cannot be read ({error}); run the warm_start stage again") from None


def keep_or_rebuild(
    fresh: Assignment,
    items: Sequence[str],
    vectors: FloatArray,
    earlier: Earlier | None,
    settings: BuildIdentifiers,
) -> tuple[Assignment, dict[str, Any]]:
    """Tonight's identifiers: the earlier ones with new items added, or the fresh ones.

    Args:
        fresh: a whole build on tonight's vectors.
        items: item ids.
        vectors: [items, dimensions] float32, tonight's.
        earlier: the champion's identifiers.
        settings: the section `build_identifiers`.

    Returns:
        The choice, with why (`reason`) and the error of both (`error_kept`, None where nothing can be kept, and
        `error_fresh`).
    """
    error_fresh = fresh.error(vectors)
    facts: dict[str, Any] = {"reason": "", "error_kept": None, "error_fresh": round(error_fresh, 5)}
    if earlier is None or (obstacle := obstacle_to_keeping(items, earlier, settings)):
        return fresh, facts | {"reason": "no champion is given" if earlier is None else obstacle}
    extended = extend(vectors, known_codes(items, earlier), settings)
    error_kept = extended.error(vectors)
    bound = settings.rebuild_above * max(error_fresh, NEGLIGIBLE_ERROR)
    facts |= {"error_kept": round(error_kept, 5), "reason": f"error {error_kept:.4f}, rebuilt above {bound:.4f}"}
    return (fresh if error_kept > bound else extended), facts


def obstacle_to_keeping(items: Sequence[str], earlier: Earlier, settings: BuildIdentifiers) -> str:
    """Why the earlier identifiers cannot stay, whatever their quality; empty where they can."""
    known = [tuple(earlier.identifiers[item]) for item in items if item in earlier.identifiers]
    levels = len(next(iter(earlier.identifiers.values())))
    facts = {
        "method": (earlier.method, settings.method),
        "codebook_width": (earlier.width, settings.codebook_width),
        "num_levels": (levels, settings.num_levels),
    }
    changed = [f"{name} was {before}, is {now}" for name, (before, now) in facts.items() if before != now]
    if changed:
        return "; ".join(changed)
    if not known:
        return "the champion knew none of the items"
    if settings.collisions == "resolve" and len(set(known)) < len(known):
        return "items of the champion share identifiers, and collisions are to be resolved"
    return ""


def known_codes(items: Sequence[str], earlier: Earlier) -> IntArray:
    """[items, levels] int64 codes of the earlier identifiers; -1 for items that have none."""
    levels = len(next(iter(earlier.identifiers.values())))
    missing = [""] * levels
    rows = [[_code(token) for token in earlier.identifiers.get(item, missing)] for item in items]
    return np.array(rows, dtype=np.int64)


def extend(vectors: FloatArray, known: IntArray, settings: BuildIdentifiers) -> Assignment:
    """Keep the known codes and give every other item the nearest codes, level by level.

    A code of a new item is one that known items have; should its identifier be taken (and collisions be resolved),
    the item alone moves, to the nearest free identifier under the deepest of its prefixes that has one, which may
    use codes without items.

    Args:
        vectors: [items, dimensions] float32.
        known: [items, levels] int64, -1 for new items.
        settings: codebook_width, collisions.

    Returns:
        All items' codes, and codebooks fitted to them; rows without items are zeros.
    """
    is_new = known[:, 0] < 0
    books = refit(vectors[~is_new], known[~is_new], settings.codebook_width)
    nearest_codes = known.copy()
    nearest_codes[is_new] = _nearest_used(vectors[is_new], books, known[~is_new])
    codes = nearest_codes.copy()
    if settings.collisions == "resolve":
        homeless = _homeless(codes, np.flatnonzero(is_new))
        place_in_branches(Quantization(vectors, books, nearest_codes), codes, homeless)
    books = refit(vectors, codes, settings.codebook_width)
    return Assignment(Quantization(vectors, books, nearest_codes), codes)


def refit(vectors: FloatArray, codes: IntArray, width: int) -> FloatArray:
    """[levels, width, dimensions] float32 codebooks of given codes: the mean of what their items have left.

    Args:
        vectors: [items, dimensions] float32.
        codes: [items, levels] int64.
        width: codes a level; one without items gets zeros.
    """
    books = np.zeros((codes.shape[1], width, vectors.shape[1]), dtype=np.float32)
    residual = vectors
    for book, column in zip(books, codes.T, strict=True):
        np.add.at(book, column, residual)
        book /= np.maximum(np.bincount(column, minlength=width), 1)[:, None]
        residual = residual - book[column]
    return books


def changes(catalog: Catalog, earlier: Earlier | None) -> dict[str, Any]:
    """How many items kept their identifier, how many are new, and whether identifiers were given anew."""
    now = catalog.identifiers()
    before = earlier.identifiers if earlier else {}
    known = now.keys() & before.keys()
    unchanged = sum(now[item] == before[item] for item in known)
    return {"kept": unchanged, "new": len(now) - len(known), "rebuilt": unchanged < len(known) or not known}


def _nearest_used(vectors: FloatArray, books: FloatArray, known: IntArray) -> IntArray:
    """[items, levels] the nearest of the codes that `known` uses."""
    codes = np.empty((len(vectors), len(books)), dtype=np.int64)
    residual = vectors
    for level, book in enumerate(books):
        used = np.unique(known[:, level])
        codes[:, level] = used[nearest(residual, book[used])]
        residual = residual - book[codes[:, level]]
    return codes


def _homeless(codes: IntArray, new: NDArray[np.int64]) -> IntArray:
    """Of the new items those whose identifier is a known item's or that of a new item before them."""
    taken = {tuple(row) for row in np.delete(codes, new, axis=0).tolist()}
    homeless = []
    for item in new.tolist():
        row = tuple(codes[item].tolist())
        if row in taken:
            homeless.append(item)
        taken.add(row)
    return np.array(homeless, dtype=np.int64)


def _code(token: str) -> int:
    return int(token[token.rindex("_") + 1 : -1]) if token else -1
