"""The catalog: items, their identifiers and the trie over them."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from atspeed_core.errors import UserError
from atspeed_core.files import write_json
from atspeed_core.identifiers.trie import IntArray, Trie, build_trie


@dataclass(frozen=True)
class Catalog:
    """Items and their identifiers.

    Attributes:
        items: item ids, in catalog order.
        code_tokens: the distinct code tokens, level by level, e.g. "<a_0>", ..., "<d_255>".
        codes: [items, levels] int64 indices into `code_tokens`.
    """

    items: list[str]
    code_tokens: list[str]
    codes: IntArray

    @classmethod
    def from_identifiers(cls, identifiers: dict[str, list[str]]) -> "Catalog":
        """Build a catalog from {"item": ["<a_1>", "<b_2>", ...]} (LC-Rec's format)."""
        items = list(identifiers)
        tokens_by_level = [sorted(set(level), key=_natural) for level in zip(*identifiers.values(), strict=True)]
        code_tokens = [token for level in tokens_by_level for token in level]
        index = {token: i for i, token in enumerate(code_tokens)}
        codes = np.array([[index[token] for token in identifiers[item]] for item in items], dtype=np.int64)
        return cls(items, code_tokens, codes)

    @classmethod
    def load(cls, path: str | Path) -> "Catalog":
        """Read an identifiers file.

        Raises:
            UserError: no such file, not JSON, or not {"item": ["<a_1>", ...]} with identifiers of one length
                whose tokens belong to one level each.
        """
        return cls.from_identifiers(read_identifiers(path))

    def save(self, path: str | Path) -> None:
        """Write the identifiers file."""
        write_json(path, self.identifiers())

    def identifiers(self) -> dict[str, list[str]]:
        """{"item": ["<a_1>", ...]}."""
        return {item: [self.code_tokens[c] for c in row] for item, row in zip(self.items, self.codes, strict=True)}

    @property
    def num_levels(self) -> int:
        """Length of an identifier."""
        return int(self.codes.shape[1])

    @cached_property
    def trie(self) -> Trie:
        """The trie over all identifiers."""
        return build_trie(self.codes)

    @cached_property
    def position(self) -> dict[str, int]:
        """Item id -> place in the catalog."""
        return {item: i for i, item in enumerate(self.items)}

    def num_collisions(self) -> int:
        """Number of items that share their identifier with another item."""
        return sum(n for n in Counter(map(tuple, self.codes.tolist())).values() if n > 1)

    def known_items(self, items: Sequence[str]) -> list[str]:
        """Those of `items` that the catalog knows, in their order."""
        return [item for item in items if item in self.position]

    def items_of_leaves(self, leaves: Sequence[int]) -> list[str]:
        """Items of trie leaves, one leaf after the other; those that share a leaf follow in catalog order."""
        trie, items = self.trie, []
        for leaf in leaves:
            if leaf >= 0:
                start, end = trie.first_item[leaf - trie.first_leaf : leaf - trie.first_leaf + 2]
                items += [self.items[i] for i in trie.leaf_items[start:end]]
        return items

    def positions_of(self, items: Sequence[str]) -> IntArray:
        """Places of known items; unknown ones are left out."""
        return np.array([self.position[i] for i in items if i in self.position], dtype=np.int64)


def read_identifiers(path: str | Path) -> dict[str, list[str]]:
    """Read and check an identifiers file (see `Catalog.load`)."""
    try:
        identifiers = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_object_without_repeats)
    except OSError:
        raise UserError(f"{path}: no such identifiers file; run the build_identifiers stage or give its path") from None
    except ValueError as error:  # no JSON, no UTF-8, or an item that stands twice
        raise UserError(
            f"{path}: not a valid identifiers file ({error}); expected {{'item': ['<a_1>', ...]}}"
        ) from None
    if not isinstance(identifiers, dict) or not identifiers:
        raise UserError(f"{path}: expected a non-empty object {{'item': ['<a_1>', ...]}}")
    _check_identifiers(path, identifiers)
    return identifiers


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"item '{repeated[0]}' stands {counts[repeated[0]]} times")
    return dict(pairs)


def _check_identifiers(path: str | Path, identifiers: dict[str, list[str]]) -> None:
    num_levels = None
    level_of: dict[str, int] = {}
    for item, tokens in identifiers.items():
        if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) for t in tokens):
            raise UserError(f"{path}: item '{item}': expected a list of code tokens, found {tokens!r:.60}")
        num_levels = num_levels or len(tokens)
        if len(tokens) != num_levels:
            raise UserError(f"{path}: item '{item}' has {len(tokens)} codes, the items before it {num_levels}")
        for level, token in enumerate(tokens):
            if level_of.setdefault(token, level) != level:
                raise UserError(f"{path}: item '{item}': token '{token}' stands at level {level} and {level_of[token]}")


def load_code_vectors(path: str | Path, code_tokens: Sequence[str]) -> NDArray[np.float32] | None:
    """[codes, dimensions] codebook vector of each code token, from codebooks.safetensors.

    None: there are no codebooks, for the identifiers were given in a file.

    Raises:
        UserError: the file is not there or damaged.
    """
    try:
        codebooks = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the build_identifiers stage again") from None
    if not codebooks:
        return None
    levels = [codebooks[f"codebook_{level}"] for level in range(1, len(codebooks) + 1)]
    vectors = {code_token(level, code): row for level, book in enumerate(levels) for code, row in enumerate(book)}
    return np.stack([vectors[token] for token in code_tokens])


def code_token(level: int, code: int) -> str:
    """The token of a code: "<a_12>" for code 12 of level 0, "<b_12>" of level 1, ..."""
    return f"<{chr(ord('a') + level)}_{code}>"


def _natural(token: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", token))
