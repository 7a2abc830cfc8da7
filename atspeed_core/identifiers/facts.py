"""What analysts read about identifiers: codebook use, collisions, the shape of the trie, neighbours by title."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from atspeed_core.identifiers.catalog import Catalog
from atspeed_core.identifiers.trie import Trie

NUM_GROUPS = 12
TITLES_PER_GROUP = 8


def describe_identifiers(catalog: Catalog, titles: Sequence[str], *, width: int | None) -> dict[str, Any]:
    """Facts that hold for any identifiers, quantised or given.

    Args:
        catalog: items and identifiers.
        titles: title of each item of the catalog, in its order.
        width: codes a level, None where it is not known (identifiers from a file).

    Returns:
        num_items, num_levels, codebook_width, codebook_use (by level), prefixes_by_depth,
        children_by_depth (of the nodes at depth 0, 1, ...) and neighbours (see `neighbours`).
    """
    return {
        "num_items": len(catalog.items),
        "num_levels": catalog.num_levels,
        "codebook_width": width,
        "codebook_use": [codebook_use(catalog, level, width) for level in range(catalog.num_levels)],
        "prefixes_by_depth": catalog.trie.prefixes_by_depth(),
        "children_by_depth": children_by_depth(catalog.trie),
        "neighbours": neighbours(catalog, titles),
    }


def codebook_use(catalog: Catalog, level: int, width: int | None) -> dict[str, Any]:
    """Codes used at a level, their share of the codebook, and the perplexity of the items' distribution over them."""
    counts = np.unique(catalog.codes[:, level], return_counts=True)[1]
    shares = counts / counts.sum()
    return {
        "level": level + 1,
        "used": len(counts),
        "share_used": None if width is None else round(len(counts) / width, 4),
        "perplexity": round(float(np.exp(-(shares * np.log(shares)).sum())), 2),
    }


def children_by_depth(trie: Trie) -> list[dict[str, Any]]:
    """Mean and largest number of children of the nodes at depth 0, 1, ..., L - 1."""
    rows = []
    for depth in range(trie.num_levels):
        counts = trie.children_counts(depth)
        rows.append({"depth": depth, "mean": round(float(counts.mean()), 3), "max": int(counts.max())})
    return rows


def neighbours(catalog: Catalog, titles: Sequence[str]) -> list[dict[str, Any]]:
    """Samples of items that share the first half of their codes, evenly spaced over the trie.

    Only prefixes of at least two items are shown; of a large group, its first titles.
    """
    depth = (catalog.num_levels + 1) // 2
    prefixes, sizes = np.unique(catalog.codes[:, :depth], axis=0, return_counts=True)
    shared = np.flatnonzero(sizes > 1)
    chosen = shared[np.unique(np.linspace(0, len(shared) - 1, NUM_GROUPS).astype(int))] if len(shared) else shared
    groups = []
    for group in chosen:
        members = np.flatnonzero((catalog.codes[:, :depth] == prefixes[group]).all(axis=1))
        groups.append(
            {
                "prefix": [catalog.code_tokens[code] for code in prefixes[group]],
                "num_items": int(sizes[group]),
                "titles": [titles[item] for item in members[:TITLES_PER_GROUP]],
            }
        )
    return groups
