"""Colliding items: giving every item an identifier of its own, as near to its vector as is free."""

from collections import Counter

import numpy as np
from scipy.optimize import linear_sum_assignment

from atspeed_core.errors import UserError
from atspeed_core.identifiers.quantization import Quantization, squared_distances
from atspeed_core.identifiers.trie import IntArray

Prefix = tuple[int, ...]


def colliding_items(codes: IntArray) -> IntArray:
    """Positions of the items that share their identifier with another item, ascending."""
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return np.flatnonzero(size[group] > 1)


def resolve_collisions(quantization: Quantization) -> IntArray:
    """Make identifiers unique.

    Items that collide with none keep their codes. Colliding items of one family (equal but for the last code) are
    spread over the last codes that no other item holds, at the least total squared distance. Items for which their
    family has no code left go, one after the other, to the nearest branch with room under their deepest prefix that
    has any.

    Returns:
        [items, levels] int64, all rows distinct.

    Raises:
        UserError: there are more items than identifiers.
    """
    codes = quantization.codes.copy()
    num_items, num_levels = codes.shape
    if num_items > quantization.width**num_levels:
        raise UserError(
            f"build_identifiers: {num_items} items do not fit into {quantization.width} ** {num_levels} identifiers; "
            "raise 'codebook_width' or 'num_levels', or set collisions: allow"
        )
    colliding = colliding_items(codes)
    homeless = _spread_in_families(quantization, codes, colliding)
    place_in_branches(quantization, codes, homeless)
    return codes


def _spread_in_families(quantization: Quantization, codes: IntArray, colliding: IntArray) -> IntArray:
    """Change the last codes of colliding items in place; return the items that found no code."""
    _, family = np.unique(codes[:, :-1], axis=0, return_inverse=True)
    settled = np.ones(len(codes), dtype=bool)
    settled[colliding] = False
    residuals = quantization.residuals(codes.shape[1] - 1, codes)
    homeless = []
    order = np.argsort(family, kind="stable")
    bounds = np.searchsorted(family[order], np.arange(family.max() + 2))
    for number in np.unique(family[colliding]):
        members = order[bounds[number] : bounds[number + 1]]
        movers = members[~settled[members]]
        free = np.setdiff1d(np.arange(quantization.width), codes[members[settled[members]], -1])
        costs = squared_distances(residuals[movers], quantization.codebooks[-1][free])
        rows, columns = linear_sum_assignment(costs)
        codes[movers[rows], -1] = free[columns]
        homeless.append(np.delete(movers, rows))
    return np.concatenate(homeless) if homeless else np.empty(0, dtype=np.int64)


def place_in_branches(quantization: Quantization, codes: IntArray, homeless: IntArray) -> None:
    """Give each homeless item, in place, a free identifier under the deepest of its prefixes that has one."""
    if not len(homeless):
        return
    num_levels = codes.shape[1]
    taken = _identifiers_by_prefix(np.delete(codes, homeless, axis=0))
    capacity = [quantization.width ** (num_levels - depth) for depth in range(num_levels + 1)]
    for item in homeless:
        prefix = tuple(codes[item].tolist())
        while taken[prefix] >= capacity[len(prefix)]:
            prefix = prefix[:-1]
        while len(prefix) < num_levels:
            room = capacity[len(prefix) + 1]
            for code in _codes_by_distance(quantization, item, prefix):
                if taken[(*prefix, code)] < room:
                    prefix = (*prefix, code)
                    break
        codes[item] = prefix
        taken.update(prefix[:depth] for depth in range(num_levels + 1))


def _identifiers_by_prefix(codes: IntArray) -> Counter[Prefix]:
    rows = [tuple(row) for row in codes.tolist()]
    return Counter(row[:depth] for row in rows for depth in range(codes.shape[1] + 1))


def _codes_by_distance(quantization: Quantization, item: int, prefix: Prefix) -> list[int]:
    level = len(prefix)
    chosen = quantization.codebooks[np.arange(level), list(prefix)].sum(axis=0, dtype=np.float32)
    residual = (quantization.vectors[item] - chosen)[None]
    order = np.argsort(squared_distances(residual, quantization.codebooks[level])[0], kind="stable")
    return [int(code) for code in order]
