"""How good rankings are: leave-one-out over all items, seen items masked, never sampled.

Knows rankings and held-out items only, not what produced them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heliograph.events import History
from heliograph.index import NO_ITEM, largest

NOT_FOUND = np.iinfo(np.int64).max
"""Rank of an item that is not in the ranking."""


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


def recall(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return (users,) 1 where the one target is among the first k, else 0; also the hit rate."""
    return (ranks <= k).astype(np.float64)


def precision(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return (users,) the share of the first k that is the target: 1 / k or 0."""
    return recall(ranks, k) / k


def f1(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return (users,) the harmonic mean of precision and recall: 2 / (k + 1) or 0."""
    return recall(ranks, k) * 2 / (k + 1)


def ndcg(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return (users,) 1 / log2(1 + rank) where the target is among the first k, else 0."""
    return np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0)


def mrr(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return (users,) 1 / rank where the target is among the first k, else 0."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


METRICS = {"recall": recall, "precision": precision, "f1": f1, "ndcg": ndcg, "mrr": mrr}


def coverage(ranking: NDArray[np.int32], k: int, n_items: int) -> float:
    """Return the share of the catalogue that is among the first k for at least one user."""
    shown = np.unique(ranking[:, :k])
    return float(np.count_nonzero(shown >= 0) / n_items)


def measure(
    ranking: NDArray[np.int32], targets: NDArray[np.int32], ks: Sequence[int], n_items: int
) -> dict[str, float]:
    """Return every metric at every cut-off, such as `ndcg@10`, averaged over users; 0 without any.

    Args:
        ranking: (users, depth) item numbers, best first, depth >= max(ks); -1 for none.
        targets: (users,) the held-out item of each user.
        ks: Cut-offs.
        n_items: Size of the catalogue.
    """
    ranks = rank_of(targets, ranking)
    row = {
        f"{name}@{k}": float(metric(ranks, k).mean()) if len(ranks) else 0.0
        for name, metric in METRICS.items()
        for k in ks
    }
    return row | {f"coverage@{k}": coverage(ranking, k, n_items) for k in ks}
