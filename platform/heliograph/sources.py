"""The models that propose candidates, each asked about a batch of histories.

A source says two things of a history: which items it would propose, best first, and how much
evidence it has for any given item: its own score, 0 where it knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from heliograph.config import SourceName
from heliograph.index import NO_ITEM, Index, largest, mask_of
from heliograph.interactions import History
from heliograph.models import HistoryModel, Model, VectorModel
from heliograph.models.als import Als
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions


@dataclass(frozen=True)
class Limits:
    """What may come back."""

    depth: int
    """Items that a source proposes for a history."""

    excluded: Sequence[NDArray[np.int32]]
    """For each history the items that must not come back."""

    eligible: NDArray[np.bool_] | None
    """(items,), true where an item may come back at all; None: all."""

    def among(self, n_items: int) -> Limits:
        """Return the limits among the first items."""
        excluded = [items[items < n_items] for items in self.excluded]
        eligible = None if self.eligible is None else self.eligible[:n_items]
        return Limits(self.depth, excluded, eligible)


class Asked(Protocol):
    """A source that has been asked about a batch of histories."""

    def best(self, row: int) -> NDArray[np.int32]:
        """Return the items that the source proposes for a history of the batch, best first."""
        ...

    def evidence(self, row: int, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return (items,) the source's score of each item for a history of the batch."""
        ...


@dataclass(frozen=True)
class Sources:
    """The fitted models that propose, and the indexes of those that are vectors."""

    popularity: Popularity
    transitions: Transitions
    als: Als
    text: Text
    indexes: Mapping[str, Index]

    def model(self, name: SourceName) -> Model:
        """Return a source by name."""
        model: Model = getattr(self, name)
        return model

    def item_vectors(self) -> dict[SourceName, NDArray[np.float32]]:
        """Return the (items, dim) vectors of each indexed model."""
        return {"als": self.als.item_vectors, "text": self.text.item_vectors}

    def of_history(self) -> dict[SourceName, HistoryModel]:
        """Return the models that look at the history."""
        return {"transitions": self.transitions, "als": self.als, "text": self.text}

    def ask(self, histories: Sequence[History], limits: Limits) -> dict[SourceName, Asked]:
        """Ask every source about a batch of histories."""
        return {
            "popularity": AskedPopularity(self.popularity, limits),
            "transitions": AskedTransitions(self.transitions, histories, limits),
            "als": AskedVectors(self.als, self.indexes["als"], histories, limits),
            "text": AskedVectors(self.text, self.indexes["text"], histories, limits),
        }


class AskedPopularity:
    """Popularity, which has something to say of every item."""

    def __init__(self, model: Popularity, limits: Limits) -> None:
        self.item_scores = model.item_scores
        self.limits = limits
        order = model.ranking
        self.order = order if limits.eligible is None else order[limits.eligible[order]]

    def best(self, row: int) -> NDArray[np.int32]:
        """See `Asked`."""
        return first_others(self.order, self.limits.depth, self.limits.excluded[row])

    def evidence(self, row: int, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Asked`."""
        return self.item_scores[items]


class AskedTransitions:
    """Transitions, which know the followers of a history's newest items and no others."""

    def __init__(self, model: Transitions, histories: Sequence[History], limits: Limits) -> None:
        self.followers = model.followers(histories)
        self.limits = limits

    def best(self, row: int) -> NDArray[np.int32]:
        """See `Asked`."""
        items, scores = self._following(row)
        refused = mask_of(self.limits.excluded[row], self.followers.shape[1])[items]
        if self.limits.eligible is not None:
            refused |= ~self.limits.eligible[items]
        best: NDArray[np.int32] = items[
            largest(np.where(refused, -np.inf, scores), self.limits.depth)
        ]
        return best

    def evidence(self, row: int, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Asked`."""
        known, scores = self._following(row)
        if not len(known):
            return np.zeros(len(items), np.float32)
        places = np.minimum(np.searchsorted(known, items), len(known) - 1)
        return np.where(known[places] == items, scores[places], 0).astype(np.float32)

    def _following(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        part = slice(self.followers.indptr[row], self.followers.indptr[row + 1])
        return self.followers.indices[part], self.followers.data[part]


class AskedVectors:
    """A model whose score is an inner product, searched in its index."""

    def __init__(
        self, model: VectorModel, index: Index, histories: Sequence[History], limits: Limits
    ) -> None:
        self.item_vectors = model.item_vectors
        self.queries = model.queries(histories)
        if len(index) < len(model.item_vectors):
            limits = limits.among(len(index))
        self.nearest = index.search(
            self.queries, limits.depth, limits.excluded, limits.eligible
        ).items
        self.nearest[~self.queries.any(axis=1)] = NO_ITEM  # a zero vector likes all equally

    def best(self, row: int) -> NDArray[np.int32]:
        """See `Asked`."""
        found: NDArray[np.int32] = self.nearest[row][self.nearest[row] != NO_ITEM]
        return found

    def evidence(self, row: int, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Asked`."""
        scores: NDArray[np.float32] = self.item_vectors[items] @ self.queries[row]
        return scores


def first_others(
    order: NDArray[np.int32], count: int, excluded: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the first `count` items of an order, of all items or some, that are not excluded."""
    first = order[: count + len(excluded)]  # at most so many can be lost
    highest = max(first.max(initial=-1), excluded.max(initial=-1))
    return first[~mask_of(excluded, highest + 1)[first]][:count]
