"""Two recommenders without a trained model: popularity and item-kNN, tuned on the validation users."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from atspeed_core.metrics import METRICS, Answers

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Histories = Sequence[Sequence[str]]

TUNING_K = 10
TUNING_USERS = 2000  # validation users the settings are chosen on, at most
NEIGHBOURS = (20, 50, 100, 200)
SHRINKAGES = (0.0, 10.0, 50.0)
USERS_AT_ONCE = 512


@dataclass(frozen=True)
class PopularitySettings:
    """Whether items of the history may be recommended."""

    exclude_seen: bool


@dataclass(frozen=True)
class ItemKnnSettings:
    """Settings of item-kNN.

    Attributes:
        neighbours: most similar items kept for each item.
        shrinkage: added to the cosine's denominator, against chance co-occurrence.
        last_items: how many of the most recent items are used; None: all that is known of the user.
        exclude_seen: items the user is known to have had are not recommended.
    """

    neighbours: int
    shrinkage: float
    last_items: int | None
    exclude_seen: bool


@dataclass(frozen=True)
class TrainingData:
    """Which training user had which item.

    Attributes:
        items: item ids; columns of the matrix.
        matrix: [users, items] float64, 1 where the user had the item.
    """

    items: list[str]
    matrix: sparse.csr_array

    @classmethod
    def from_sequences(cls, items: list[str], sequences: Iterable[Sequence[str]]) -> "TrainingData":
        """Build from the items that may be recommended and each training user's items."""
        return cls(items, membership({item: i for i, item in enumerate(items)}, list(sequences)))

    @cached_property
    def position(self) -> dict[str, int]:
        """Item id -> column."""
        return {item: i for i, item in enumerate(self.items)}

    @cached_property
    def trained_position(self) -> dict[str, int]:
        """Item id -> column, of the items that a training user had."""
        had = self.popularity > 0
        return {item: i for item, i in self.position.items() if had[i]}

    @property
    def popularity(self) -> FloatArray:
        """[items] number of training users."""
        return np.asarray(self.matrix.sum(axis=0), dtype=np.float64)


def membership(position: Mapping[str, int], histories: Histories) -> sparse.csr_array:
    """[histories, items] float64 sparse matrix: 1 where the history holds the item; unknown items are left out."""
    rows = [sorted({position[item] for item in history if item in position}) for history in histories]
    ends = np.cumsum([0, *map(len, rows)])
    columns = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64, count=ends[-1])
    return sparse.csr_array((np.ones(len(columns)), columns, ends), shape=(len(rows), len(position)))


def item_similarities(matrix: sparse.csr_array, shrinkage: float) -> sparse.csr_array:
    """[items, items] co-occurrence / (sqrt(n_i * n_j) + shrinkage), 0 on the diagonal."""
    counts = np.asarray(matrix.sum(axis=0), dtype=np.float64)
    both = sparse.coo_array(matrix.T @ matrix)
    others = both.row != both.col
    rows, columns = both.row[others], both.col[others]
    values = both.data[others] / (np.sqrt(counts[rows] * counts[columns]) + shrinkage)
    similarities = sparse.csr_array((values, (rows, columns)), shape=both.shape)
    similarities.sort_indices()
    return similarities


def nearest(similarities: sparse.csr_array, neighbours: int) -> sparse.csr_array:
    """The `neighbours` largest values of each row; ties go to the lower column."""
    place = np.empty(len(similarities.data), dtype=np.int64)
    for start, end in itertools.pairwise(similarities.indptr):
        place[start + np.argsort(-similarities.data[start:end], kind="stable")] = np.arange(end - start)
    nearest = place < neighbours
    ends = np.concatenate([[0], np.cumsum(nearest)])[similarities.indptr]
    return sparse.csr_array((similarities.data[nearest], similarities.indices[nearest], ends), similarities.shape)


def top_items(scores: FloatArray, popularity: FloatArray, k: int) -> IntArray:
    """[users, k] columns of the largest `scores` [users, items], best first; popularity breaks ties, then the order."""
    by_popularity = np.argsort(-popularity, kind="stable")
    candidates = -scores[:, by_popularity]
    bound = np.partition(candidates, k - 1, axis=1)[:, k - 1 : k]
    best = np.empty((len(scores), k), dtype=np.int64)
    for user, row in enumerate(candidates):
        possible = np.flatnonzero(row <= bound[user])
        best[user] = possible[np.argsort(row[possible], kind="stable")[:k]]
    return by_popularity[best]


def recommend_popular(data: TrainingData, settings: PopularitySettings, known: Histories, k: int) -> list[list[str]]:
    """The `k` items with most training users, for each user; `known` is what each user had, oldest first."""
    scores = data.popularity[None, :]
    return best_scored(data, known, settings.exclude_seen, k, lambda users: np.repeat(scores, len(users), axis=0))


def recommend_similar(data: TrainingData, settings: ItemKnnSettings, known: Histories, k: int) -> list[list[str]]:
    """Item-kNN: the `k` items with the largest sum of similarities to the user's items (cosine on training users).

    Source: Deshpande and Karypis, "Item-based top-N recommendation algorithms", TOIS 2004.
    """
    similar = nearest(item_similarities(data.matrix, settings.shrinkage), settings.neighbours)
    return _recommend_by(similar, data, settings, known, k)


def tune_popularity(data: TrainingData, known: Histories, targets: Histories) -> PopularitySettings:
    """The stronger of the two settings by NDCG@10 on validation users."""
    known, targets, k = known[:TUNING_USERS], targets[:TUNING_USERS], min(TUNING_K, len(data.items))
    choices = [PopularitySettings(exclude_seen=flag) for flag in (True, False)]
    return max(choices, key=lambda choice: mean_ndcg(recommend_popular(data, choice, known, k), targets, k))


def tune_item_knn(data: TrainingData, known: Histories, targets: Histories, *, max_history: int) -> ItemKnnSettings:
    """The strongest settings of a small grid by NDCG@10 on validation users.

    Args:
        data: training users.
        known: all that is known of each validation user before the held-out items, oldest first.
        targets: their held-out items.
        max_history: the history length that the target is given, one of the lengths tried.
    """
    known, targets, k = known[:TUNING_USERS], targets[:TUNING_USERS], min(TUNING_K, len(data.items))
    scores: dict[ItemKnnSettings, float] = {}
    for shrinkage in SHRINKAGES:
        similarities = item_similarities(data.matrix, shrinkage)
        for neighbours in NEIGHBOURS:
            similar = nearest(similarities, neighbours)
            for last_items, exclude_seen in itertools.product((5, max_history, None), (True, False)):
                choice = ItemKnnSettings(neighbours, shrinkage, last_items, exclude_seen)
                scores[choice] = mean_ndcg(_recommend_by(similar, data, choice, known, k), targets, k)
    return max(scores, key=scores.__getitem__)


def _recommend_by(
    similar: sparse.csr_array, data: TrainingData, settings: ItemKnnSettings, known: Histories, k: int
) -> list[list[str]]:
    last = settings.last_items

    def scores(users: Histories) -> FloatArray:
        recent = users if last is None else [history[-last:] for history in users]
        return np.asarray((membership(data.position, recent) @ similar).toarray(), dtype=np.float64)

    return best_scored(data, known, settings.exclude_seen, k, scores)


def best_scored(
    data: TrainingData, known: Histories, exclude_seen: bool, k: int, score: Callable[[Histories], FloatArray]
) -> list[list[str]]:
    """The `k` items with the largest scores for each user; popularity breaks ties.

    Args:
        data: the items, and how popular they are.
        known: what each user had, oldest first.
        exclude_seen: leave out what the user had; a list may be shorter then.
        k: length of the lists, at most the number of items.
        score: histories -> [users, items] float64, an array that may be written to.
    """
    popularity = data.popularity
    lists: list[list[str]] = []
    for users in _batches(known):
        scores = score(users)
        if exclude_seen:
            scores[membership(data.position, users).nonzero()] = -np.inf
        best = top_items(scores, popularity, k)
        allowed = np.take_along_axis(scores, best, axis=1) > -np.inf
        lists += [[data.items[i] for i in row[keep]] for row, keep in zip(best, allowed, strict=True)]
    return lists


def _batches(histories: Histories) -> Iterator[Histories]:
    for start in range(0, len(histories), USERS_AT_ONCE):
        yield histories[start : start + USERS_AT_ONCE]


def mean_ndcg(lists: Histories, targets: Histories, k: int) -> float:
    """NDCG@k, mean over users: what settings are chosen by."""
    return float(METRICS.get("ndcg").measure(Answers(lists, targets, k)).mean())
