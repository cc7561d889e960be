"""What a search returns, and arrays of item numbers. Knows no FAISS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_ITEM = -1


@dataclass(frozen=True)
class Hits:
    """The best items of a batch of queries, best first."""

    items: NDArray[np.int32]
    """(queries, k) item numbers; -1 where fewer than k items are eligible."""

    scores: NDArray[np.float32]
    """(queries, k); -inf beside -1."""

    def beside(self, others: Hits) -> Hits:
        """Return the best of both, as many a query as here. No item is in both."""
        items = np.concatenate([self.items, others.items], axis=1)
        scores = np.concatenate([self.scores, others.scores], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.items.shape[1]]
        return Hits(np.take_along_axis(items, best, 1), np.take_along_axis(scores, best, 1))


def no_hits(queries: int, k: int) -> Hits:
    """Return hits of which none has been found yet."""
    return Hits(
        items=np.full((queries, k), NO_ITEM, np.int32),
        scores=np.full((queries, k), -np.inf, np.float32),
    )


def mask_of(items: NDArray[np.int32], n_items: int) -> NDArray[np.bool_]:
    """Return (n_items,), true at the given items."""
    mask = np.zeros(n_items, bool)
    mask[items] = True
    return mask


def distinct(items: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return each of a few hundred items once, ascending; `np.unique` hashes them first."""
    ordered = np.sort(items)
    once: NDArray[np.int32] = ordered[np.diff(ordered, prepend=NO_ITEM - 1) != 0]
    return once


def largest(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Return the places of the k largest of (n,) scores, best first, equal ones in order of place.

    Without a full sort: only what is at least as large as the k-th largest is sorted. -inf is
    never among them, so that fewer than k places may come back.
    """
    floor = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
    places = np.flatnonzero((scores >= floor) & (scores > -np.inf))
    return places[np.argsort(-scores[places], kind="stable")[:k]]
