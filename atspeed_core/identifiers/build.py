"""From items and training sequences, or from a file, to identifiers with their report."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from atspeed_core.errors import UserError
from atspeed_core.identifiers.catalog import Catalog, code_token, read_identifiers
from atspeed_core.identifiers.collisions import colliding_items, resolve_collisions
from atspeed_core.identifiers.embeddings import FloatArray, item_embeddings
from atspeed_core.identifiers.extend import Assignment, Earlier, changes, keep_or_rebuild
from atspeed_core.identifiers.facts import describe_identifiers
from atspeed_core.identifiers.quantization import Quantization, residual_kmeans
from atspeed_core.identifiers.trie import IntArray
from atspeed_core.settings import BuildIdentifiers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identifiers:
    """What the stage build_identifiers makes.

    Attributes:
        catalog: items and their identifiers.
        codebooks: [levels, width, dimensions] float32; None for identifiers from a file.
        report: see `describe_identifiers`, with collisions (numbers of items), quantization_error (by level, share
            of squared length left by the final codes; of the latent vectors for a fresh RQ-VAE; None for a file) and
            what became of the champion's identifiers: kept, new (numbers of items), rebuilt, reason, error_kept,
            error_fresh (see `extend`).
    """

    catalog: Catalog
    codebooks: FloatArray | None
    report: dict[str, Any]


def build_identifiers(
    items: pd.DataFrame,
    sequences: Sequence[Sequence[str]],
    settings: BuildIdentifiers,
    earlier: Earlier | None = None,
) -> Identifiers:
    """Give every item an identifier.

    With `earlier`, items that it knows keep theirs, unless that leaves `rebuild_above` times the error of fresh ones:
    then, as where method, levels or width have changed, all identifiers are made anew.

    Args:
        items: item_id, title, text; one row per item.
        sequences: the items of each training user, oldest first.
        settings: the section `build_identifiers`.
        earlier: the champion's identifiers; a given file pays no regard to them.

    Raises:
        UserError: a given file is wrong or incomplete, or there are more items than identifiers.
    """
    if settings.file is not None:
        return _from_file(items, settings.file, settings.collisions, earlier)
    return _quantised(items, sequences, settings, earlier)


def _quantised(
    items: pd.DataFrame, sequences: Sequence[Sequence[str]], settings: BuildIdentifiers, earlier: Earlier | None
) -> Identifiers:
    item_ids = items["item_id"].tolist()
    with threadpool_limits(1):  # the order of sums, and with it the identifiers, must not hang on the number of cores
        vectors = item_embeddings(item_ids, items["text"].tolist(), sequences, settings)
        log.info("embedded %d items in %d dimensions", *vectors.shape)
        quantization = quantize(vectors, settings)
        codes = resolve_collisions(quantization) if settings.collisions == "resolve" else quantization.codes
        chosen, facts = keep_or_rebuild(Assignment(quantization, codes), item_ids, vectors, earlier, settings)
    catalog = catalog_of_codes(item_ids, chosen.codes)
    report = {
        "method": settings.method,
        **describe_identifiers(catalog, items["title"].tolist(), width=settings.codebook_width),
        "collisions": _collisions(chosen.quantization.codes, chosen.codes),
        "quantization_error": [round(error, 5) for error in chosen.quantization.errors(chosen.codes)],
        **changes(catalog, earlier),
        **facts,
    }
    return Identifiers(catalog, chosen.quantization.codebooks, report)


def quantize(vectors: FloatArray, settings: BuildIdentifiers) -> Quantization:
    """Quantise item vectors [items, dimensions] by the method of the settings (rq_kmeans or rq_vae)."""
    if settings.method == "rq_vae":
        from atspeed_core.identifiers.rq_vae import train_rq_vae  # torch is slow to import and k-means needs none

        return train_rq_vae(
            vectors,
            settings.rq_vae,
            num_levels=settings.num_levels,
            width=settings.codebook_width,
            seed=settings.seed,
        )
    return residual_kmeans(vectors, num_levels=settings.num_levels, width=settings.codebook_width, seed=settings.seed)


def catalog_of_codes(items: Sequence[str], codes: IntArray) -> Catalog:
    """Write codes [items, levels] as tokens: "<a_0>" for code 0 of the first level, "<b_0>" of the second, ..."""
    rows = codes.tolist()
    identifiers = {
        item: [code_token(level, code) for level, code in enumerate(row)] for item, row in zip(items, rows, strict=True)
    }
    return Catalog.from_identifiers(identifiers)


def _from_file(items: pd.DataFrame, path: str, collisions: str, earlier: Earlier | None) -> Identifiers:
    catalog = Catalog.from_identifiers(read_identifiers(path))
    _require_items(catalog, items["item_id"].tolist(), path)
    shared = catalog.num_collisions()
    if shared and collisions == "resolve":
        raise UserError(
            f"{path}: {shared} items share an identifier; a given file is taken as it is: make it unique or set "
            "build_identifiers.collisions: allow"
        )
    title_of = dict(zip(items["item_id"], items["title"], strict=True))
    titles = [str(title_of.get(item, "")) for item in catalog.items]
    report = {
        "method": "file",
        **describe_identifiers(catalog, titles, width=None),
        "collisions": _collisions(catalog.codes, catalog.codes),
        "quantization_error": None,
        **changes(catalog, earlier),
        "reason": f"given by {path}",
        "error_kept": None,
        "error_fresh": None,
    }
    return Identifiers(catalog, None, report)


def _require_items(catalog: Catalog, items: Sequence[str], path: str) -> None:
    missing = [item for item in items if item not in catalog.position]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of the data set's {len(items)} items have no identifier "
            f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}); add them or use another method"
        )


def _collisions(before: IntArray, after: IntArray) -> dict[str, int]:
    return {
        "items_before": len(colliding_items(before)),
        "items_after": len(colliding_items(after)),
        "items_moved": int(np.any(before != after, axis=1).sum()),
    }
