"""What lists are like, apart from being right: coverage, concentration, novelty, diversity, bias.

Values of one user are NaN where a property is not defined, as the diversity of a single item;
`mean_of_defined` leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heliograph.index import NO_ITEM
from heliograph.interactions import History


def coverage(ranking: NDArray[np.int32], k: int, n_items: int) -> float:
    """Return the share of the catalogue that is among the first k for at least one user.

    Ge, Delgado-Battenfeld, Jannach: Beyond accuracy, RecSys 2010 ("catalog coverage").
    """
    return float(np.count_nonzero(_exposure(ranking, k, n_items)) / n_items)


def gini(ranking: NDArray[np.int32], k: int, n_items: int) -> float:
    """Return how unequally the first k places are shared among all items of the catalogue.

    sum_i (2 i - n - 1) x_i / (n sum_i x_i) with x sorted ascending, x_i how often item i is shown:
    0 if all are shown equally often (or nothing is shown), 1 - 1/n if one item has every place.
    Gini's coefficient in the form of Adomavicius and Kwon: Improving aggregate recommendation
    diversity, IEEE TKDE 24(5), 2012.
    """
    shown = np.sort(_exposure(ranking, k, n_items))
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(weights @ shown / (n_items * max(shown.sum(), 1)))


def novelty(
    ranking: NDArray[np.int32], k: int, interactions: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return (users,) the mean self-information -log2 p(item) of the first k, in bits.

    p(item) is the item's share of all interactions; an item without any counts as having one, so
    that its novelty is finite. Vargas and Castells: Rank and relevance in novelty and diversity
    metrics, RecSys 2011 ("expected free discovery", without discount).

    Args:
        ranking: (users, depth) item numbers, best first; -1 for none.
        k: Places that count.
        interactions: (items,) training interactions of each item.
    """
    bits = np.log2(max(interactions.sum(), 1)) - np.log2(np.maximum(interactions, 1))
    return _mean_of_shown(ranking[:, :k], bits)


def intra_list_diversity(
    ranking: NDArray[np.int32], k: int, vectors: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return (users,) 1 - the mean cosine of all pairs among the first k; 0 if all are alike.

    NaN with fewer than two items. A zero vector has cosine 0 with everything. Smyth and McClave:
    Similarity vs. diversity, ICCBR 2001. For unit vectors the sum over pairs is
    (|sum of vectors|^2 - sum of |vector|^2) / 2, which needs no pairs.

    Args:
        ranking: (users, depth) item numbers, best first; -1 for none.
        k: Places that count.
        vectors: (items, dim), of any length.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0)
    total = np.zeros((len(ranking), vectors.shape[1]))
    own = np.zeros(len(ranking))
    for items in ranking[:, :k].T:
        placed = np.where(items[:, None] == NO_ITEM, 0.0, unit[items])
        total += placed
        own += (placed**2).sum(axis=1)
    count = (ranking[:, :k] != NO_ITEM).sum(axis=1, dtype=np.int64)
    cosines = _ratio((total**2).sum(axis=1) - own, count * (count - 1))
    return 1 - cosines


def popularity_percentile(interactions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (items,) the share of items that are less popular, equals counting half, in (0, 1)."""
    ordered = np.sort(interactions)
    less, not_more = (np.searchsorted(ordered, interactions, side) for side in ("left", "right"))
    return (less + not_more) / (2 * max(len(interactions), 1))


def popularity_bias(
    ranking: NDArray[np.int32],
    k: int,
    histories: Sequence[History],
    interactions: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return (users,) mean popularity percentile of what is shown minus that of what was consumed.

    In (-1, 1): above 0, a user is shown more popular items than those he chose; NaN where the list
    or the history is empty. The comparison with each user's own history is that of Abdollahpouri,
    Mansoury, Burke, Mobasher: The unfairness of popularity bias in recommendation, 2019, here with
    percentiles in place of counts, so that a few blockbusters do not decide.

    Args:
        ranking: (users, depth) item numbers, best first; -1 for none.
        k: Places that count.
        histories: What each of the users consumed.
        interactions: (items,) training interactions of each item.
    """
    percentile = popularity_percentile(interactions)
    lengths = np.array([len(history) for history in histories], np.int64)
    owner = np.repeat(np.arange(len(histories)), lengths)
    consumed = np.concatenate([*histories, np.zeros(0, np.int32)])
    sums = np.bincount(owner, percentile[consumed], minlength=len(histories)).astype(np.float64)
    return _mean_of_shown(ranking[:, :k], percentile) - _ratio(sums, lengths)


def list_values(
    ranking: NDArray[np.int32],
    ks: Sequence[int],
    histories: Sequence[History],
    interactions: NDArray[np.int64],
    vectors: NDArray[np.float32],
) -> dict[str, NDArray[np.float64]]:
    """Return novelty, diversity and popularity bias at every cut-off, for each user."""
    values = {f"novelty@{k}": novelty(ranking, k, interactions) for k in ks}
    values |= {f"diversity@{k}": intra_list_diversity(ranking, k, vectors) for k in ks}
    return values | {
        f"popularity_bias@{k}": popularity_bias(ranking, k, histories, interactions) for k in ks
    }


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """Average the values that are not NaN; 0 without any."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else 0.0


def _exposure(ranking: NDArray[np.int32], k: int, n_items: int) -> NDArray[np.int64]:
    """Return (items,) the number of lists whose first k places hold the item."""
    shown = ranking[:, :k]
    return np.bincount(shown[shown != NO_ITEM], minlength=n_items)


def _mean_of_shown(shown: NDArray[np.int32], of_items: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average (items,) values over each row of item numbers; NaN for an empty row."""
    is_item = shown != NO_ITEM
    sums = np.where(is_item, of_items[shown], 0.0).sum(axis=1)  # -1 picks the last item: masked
    return _ratio(sums, is_item.sum(axis=1, dtype=np.int64))


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    means = np.full(len(sums), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means
