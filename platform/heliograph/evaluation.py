"""How good rankings are: held-out items looked for among all items, seen ones masked, no sampling.

Knows rankings and held-out items only, not what produced them. Relevance is binary. Every metric
has a value a user, because tests of significance and cohorts need more than the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from heliograph.index import NO_ITEM, largest
from heliograph.interactions import History
from heliograph.list_properties import coverage, gini

NOT_FOUND = np.iinfo(np.int64).max
"""Rank of an item that is not in the ranking."""

Values = NDArray[np.float64]
"""(users,) one number a user."""

Ranks = NDArray[np.int64]
"""(users,) the rank of the one relevant item, 1 for the first; or (users, depth) the ranks of all
relevant items that were found. `NOT_FOUND` fills the rest."""

Counts = NDArray[np.int64] | int
"""(users,) how many items are relevant to each user, or one number for all."""

Targets = NDArray[np.int32] | Sequence[NDArray[np.int32]]
"""(users,) one held-out item a user, or for each user an array of held-out items."""


def top_items(scores: NDArray[np.float32], seen: Sequence[History], k: int) -> NDArray[np.int32]:
    """Rank the best items that a user has not seen.

    Args:
        scores: (users, items), higher is better; -inf is never ranked.
        seen: Each user's items, which are left out.
        k: Length of the rankings.

    Returns:
        (users, k) item numbers, best first, equal scores in order of number; -1 where fewer than
        k items can be ranked.
    """
    ranking = np.full((len(scores), k), NO_ITEM, np.int32)
    for row, history in enumerate(seen):
        masked = scores[row].copy()
        masked[history] = -np.inf
        best = largest(masked, k)
        ranking[row, : len(best)] = best
    return ranking


def rank_of(targets: NDArray[np.int32], ranking: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return (users,) the rank of each user's target, 1 for the first, `NOT_FOUND` if absent."""
    hits = ranking == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, NOT_FOUND)


def ranks_of(
    relevant: Sequence[NDArray[np.int32]], ranking: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Find several relevant items a user.

    Args:
        relevant: Each user's held-out items; an item that is named twice counts once.
        ranking: (users, depth) item numbers, best first, none twice in a row; -1 for none.

    Returns:
        (users, depth) the ranks of the items that were found, best first, then `NOT_FOUND`.
    """
    if len(relevant) != len(ranking):
        raise ValueError(
            f"{len(relevant)} users have held-out items, but {len(ranking)} have a ranking; "
            "give both for the same users, in the same order"
        )
    hits = np.zeros(ranking.shape, bool)
    for row, items in enumerate(relevant):
        hits[row] = np.isin(ranking[row], items)
    hits &= ranking != NO_ITEM
    places = np.arange(1, ranking.shape[1] + 1)
    return np.sort(np.where(hits, places, NOT_FOUND), axis=1)


def hit_rate(ranks: Ranks, k: int, relevant: Counts = 1) -> Values:
    """Return (users,) 1 where at least one relevant item is among the first k, else 0."""
    return (_found(ranks, k) > 0).astype(np.float64)


def recall(ranks: Ranks, k: int, relevant: Counts = 1) -> Values:
    """Return (users,) found / relevant, with found = relevant items among the first k.

    0 where nothing is relevant, as in every metric here. Manning, Raghavan, Schütze: Introduction
    to Information Retrieval (2008), section 8.3.
    """
    return _found(ranks, k) / _one_or_more(relevant)


def precision(ranks: Ranks, k: int, relevant: Counts = 1) -> Values:
    """Return (users,) found / k, open places counting as wrong. Manning et al., section 8.4."""
    return _found(ranks, k) / k


def f1(ranks: Ranks, k: int, relevant: Counts = 1) -> Values:
    """Return (users,) 2 P R / (P + R), that is 2 found / (k + relevant). Manning et al., 8.3."""
    return 2 * _found(ranks, k) / (k + np.asarray(relevant, np.float64))


def ndcg(ranks: Ranks, k: int, relevant: Counts = 1) -> Values:
    """Return (users,) DCG / ideal DCG, where DCG = sum of 1 / log2(1 + rank) over found items.

    The ideal list begins with min(k, relevant) relevant items. Järvelin and Kekäläinen: Cumulated
    gain-based evaluation of IR techniques, ACM TOIS 20(4), 2002, with the discount log2(1 + rank).
    """
    gained = _summed(ranks, k, lambda found: 1 / np.log2(1.0 + found))
    ideal: Values = np.cumsum(1 / np.log2(np.arange(2.0, k + 2)))
    score: Values = gained / ideal[np.clip(np.asarray(relevant), 1, k) - 1]
    return score


def mrr(ranks: Ranks, k: int, relevant: Counts = 1) -> Values:
    """Return (users,) 1 / rank of the first relevant item among the first k, else 0.

    Voorhees: The TREC-8 question answering track report, 1999.
    """
    first = _by_place(ranks)[:, :1]
    return _summed(first, k, lambda found: 1.0 / found)


def average_precision(ranks: Ranks, k: int, relevant: Counts = 1) -> Values:
    """Return (users,) sum over found items of precision at their rank / relevant; its mean is MAP.

    The divisor is all relevant items, also where k is smaller (trec_eval's map_cut), so that a list
    of k cannot reach 1 if more than k are relevant. Manning et al., section 8.4.
    """
    ordinal = np.arange(1, _by_place(ranks).shape[1] + 1)  # the j-th found item: precision j / rank
    return _summed(ranks, k, lambda found: ordinal / found) / _one_or_more(relevant)


METRICS: dict[str, Callable[[Ranks, int, Counts], Values]] = {
    "recall": recall,
    "precision": precision,
    "f1": f1,
    "hit_rate": hit_rate,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": average_precision,
}


def per_user(ranking: NDArray[np.int32], targets: Targets, ks: Sequence[int]) -> dict[str, Values]:
    """Return every metric at every cut-off, such as `ndcg@10`, for each user.

    Args:
        ranking: (users, depth) item numbers, best first, none twice in a row; -1 for none.
        targets: What is held out of each user.
        ks: Cut-offs; where one is above depth, the missing places count as open.
    """
    relevant: Counts = 1
    if isinstance(targets, np.ndarray):
        ranks = rank_of(targets, ranking)
    else:
        ranks = ranks_of(targets, ranking)
        relevant = np.array([len(np.unique(items)) for items in targets], np.int64)
    return {
        f"{name}@{k}": metric(ranks, k, relevant) for name, metric in METRICS.items() for k in ks
    }


def measure(
    ranking: NDArray[np.int32], targets: Targets, ks: Sequence[int], n_items: int
) -> dict[str, float]:
    """Average every metric over users, and add `coverage@k` and `gini@k`; all 0 without users.

    Args:
        ranking: (users, depth) item numbers, best first, none twice in a row; -1 for none.
        targets: What is held out of each user.
        ks: Cut-offs; where one is above depth, the missing places count as open.
        n_items: Size of the catalogue.
    """
    values = per_user(ranking, targets, ks)
    row = {name: float(value.mean()) if len(value) else 0.0 for name, value in values.items()}
    row |= {f"coverage@{k}": coverage(ranking, k, n_items) for k in ks}
    return row | {f"gini@{k}": gini(ranking, k, n_items) for k in ks}


def _by_place(ranks: Ranks) -> NDArray[np.int64]:
    """View ranks as (users, places): one relevant item is one place."""
    return ranks[:, None] if ranks.ndim == 1 else ranks


def _found(ranks: Ranks, k: int) -> Values:
    """Count the relevant items among the first k."""
    found: Values = (_by_place(ranks) <= k).sum(axis=1, dtype=np.float64)
    return found


def _one_or_more(relevant: Counts) -> NDArray[np.float64]:
    """Return a divisor: nothing is found where nothing is relevant, so 1 gives 0 there."""
    return np.maximum(np.asarray(relevant, np.float64), 1)


def _summed(ranks: Ranks, k: int, gain: Callable[[NDArray[np.int64]], Values]) -> Values:
    """Add the gains of the ranks up to k, for each user."""
    places = _by_place(ranks)
    gains: Values = np.where(places <= k, gain(places), 0.0)
    total: Values = gains.sum(axis=1)
    return total
