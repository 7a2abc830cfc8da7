"""Item embeddings: what is written about an item, and which items it is consumed with."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from atspeed_core.identifiers.cooccurrence import cooccurrence_counts, positive_pmi
from atspeed_core.identifiers.sentence_encoder import encode_sentences
from atspeed_core.settings import BuildIdentifiers

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]


def item_embeddings(
    items: Sequence[str], texts: Sequence[str], sequences: Sequence[Sequence[str]], settings: BuildIdentifiers
) -> FloatArray:
    """Embed every item by its text and by its neighbours in the training sequences.

    Both parts have rows of length 1, multiplied by the square root of their weight, so the squared distance of two
    items is text_weight * (distance of texts)^2 + cooccurrence_weight * (distance of neighbourhoods)^2.
    An item without text, or without a neighbour, has zeros in that part. A part of weight 0 is left out.

    Args:
        items: item ids.
        texts: what is known of each item, in the same order; may be empty strings.
        sequences: the items of each training user, oldest first (never validation or test items).
        settings: the section `build_identifiers`.

    Returns:
        [items, dimensions] float32.
    """
    parts = []
    if settings.text_weight > 0:
        parts.append(np.sqrt(settings.text_weight) * _text_part(texts, settings))
    if settings.cooccurrence_weight > 0:
        parts.append(np.sqrt(settings.cooccurrence_weight) * _cooccurrence_part(items, sequences, settings))
    return np.concatenate(parts, axis=1).astype(np.float32)


def tfidf_embeddings(texts: Sequence[str], dim: int, seed: int) -> FloatArray:
    """TF-IDF of the words of each text, reduced by SVD to [texts, at most dim] float32, rows of length 1 or 0."""
    if not any(text.strip() for text in texts):
        return np.zeros((len(texts), 1), dtype=np.float32)
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    try:
        matrix = csr_array(vectorizer.fit_transform(texts))
    except ValueError:  # not one word is left: scikit-learn's "empty vocabulary"
        return np.zeros((len(texts), 1), dtype=np.float32)
    return unit_rows(_reduce(matrix, dim, seed, power=1.0))


def cooccurrence_embeddings(
    items: Sequence[str], sequences: Sequence[Sequence[str]], *, window: int, dim: int, seed: int
) -> FloatArray:
    """Positive PMI of items near each other, reduced by SVD to [items, at most dim] float32, rows of length 1 or 0.

    Left singular vectors times the square root of the singular values (Levy, Goldberg and Dagan, TACL 2015).
    """
    matrix = positive_pmi(cooccurrence_counts(items, sequences, window))
    return unit_rows(_reduce(matrix, dim, seed, power=0.5))


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Scale every row to length 1; rows of zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: FloatArray = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled


def _text_part(texts: Sequence[str], settings: BuildIdentifiers) -> FloatArray:
    if settings.sentence_encoder is None:
        part = tfidf_embeddings(texts, settings.embedding_dim, settings.seed)
    else:
        part = unit_rows(encode_sentences(texts, settings.sentence_encoder))
    _log_empty_rows(part, "no text")
    return part


def _cooccurrence_part(
    items: Sequence[str], sequences: Sequence[Sequence[str]], settings: BuildIdentifiers
) -> FloatArray:
    part = cooccurrence_embeddings(
        items, sequences, window=settings.cooccurrence_window, dim=settings.embedding_dim, seed=settings.seed
    )
    _log_empty_rows(part, "no neighbour in the training sequences")
    return part


def _log_empty_rows(part: FloatArray, what: str) -> None:
    if empty := int((~part.any(axis=1)).sum()):
        log.info("%d of %d items have %s: zeros in that part of their embedding", empty, len(part), what)


def _reduce(matrix: csr_array, dim: int, seed: int, *, power: float) -> FloatArray:
    """[rows, at most dim]: left singular vectors times singular values ** power; empty rows are exactly 0."""
    left, values, _ = randomized_svd(matrix, n_components=min(dim, *matrix.shape), random_state=seed)
    reduced = np.asarray(left * values**power, dtype=np.float32)
    reduced[np.diff(matrix.indptr) == 0] = 0
    return reduced
