"""Which items stand near each other in the training sequences: counts and positive PMI."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array, csr_array

CONTEXT_SMOOTHING = 0.75  # lifts the share of rare contexts, which plain PMI overrates (Levy et al., TACL 2015)


def cooccurrence_counts(items: Sequence[str], sequences: Sequence[Sequence[str]], window: int) -> csr_array:
    """Count how often two different items stand at most `window` positions apart in one sequence.

    Returns:
        [items, items] float64, symmetric, with an empty diagonal.
    """
    position = {item: i for i, item in enumerate(items)}
    rows, columns = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for sequence in sequences:
        places = np.array([position[item] for item in sequence], dtype=np.int64)
        for offset in range(1, min(window, len(places) - 1) + 1):
            rows.append(places[:-offset])
            columns.append(places[offset:])
    row, column = np.concatenate(rows), np.concatenate(columns)
    apart = row != column
    shape = (len(items), len(items))
    counts = coo_array((np.ones(int(apart.sum())), (row[apart], column[apart])), shape=shape).tocsr()
    return csr_array(counts + counts.T)


def positive_pmi(counts: csr_array) -> csr_array:
    """Positive pointwise mutual information of a count matrix, contexts smoothed by a power of 0.75.

    max(0, log(P(i, j) / (P(i) P'(j)))) with P'(j) proportional to P(j) ** 0.75; pairs at 0 are not stored.

    Returns:
        Sparse matrix of the shape of `counts`, float64.
    """
    pairs = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    contexts = totals**CONTEXT_SMOOTHING
    row, column = pairs.coords
    pmi = np.log(pairs.data * contexts.sum() / (totals[row] * contexts[column]))
    positive = csr_array((np.maximum(pmi, 0.0), (row, column)), shape=counts.shape)
    positive.eliminate_zeros()
    return positive
