"""Histories -> candidates: several sources propose, their rankings are fused into one.

Filters and exclusions are applied inside each source, so that a narrow filter still gives
full lists; popularity, which ranks every item, fills what the others leave open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.config import SOURCE_NAMES, CandidatesConfig, SourceName
from heliograph.events import History
from heliograph.index import NO_ITEM, VectorIndex, largest, mask_of
from heliograph.models import Model, VectorModel
from heliograph.models.als import Als
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.models.transitions import Transitions


@dataclass(frozen=True)
class Candidates:
    """Fused candidates of a batch of histories, best first."""

    items: NDArray[np.int32]
    """(histories, count) item numbers; -1 where no more items are eligible."""

    scores: NDArray[np.float32]
    """(histories, count) fused scores; 0 beside -1."""

    sources: NDArray[np.uint8]
    """(histories, count) bit s is set where source `SOURCE_NAMES[s]` proposed the item."""

    def row(self, row: int, count: int) -> Candidates:
        """Return one history's first `count` items as a batch of its own, without open places."""
        found = int(np.count_nonzero(self.items[row, :count] != NO_ITEM))
        part = np.s_[row : row + 1, :found]
        return Candidates(self.items[part], self.scores[part], self.sources[part])


@dataclass(frozen=True)
class Sources:
    """The fitted models that propose, and the indexes of those that are vectors."""

    popularity: Popularity
    transitions: Transitions
    als: Als
    text: Text
    indexes: Mapping[str, VectorIndex]

    def model(self, name: SourceName) -> Model:
        """Return a source by name."""
        model: Model = getattr(self, name)
        return model


class Retriever:
    """Proposes candidates for histories."""

    def __init__(self, sources: Sources, config: CandidatesConfig) -> None:
        self.sources = sources
        self.config = config
        self.by_popularity = sources.popularity.ranking()

    def retrieve(
        self,
        histories: Sequence[History],
        count: int,
        excluded: Sequence[NDArray[np.int32]] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> Candidates:
        """Fuse what the sources propose for each history.

        Args:
            histories: Item numbers, oldest first; an empty one gets popular items.
            count: Candidates a history.
            excluded: For each history the items that must not come back; default: the history.
            eligible: (items,), true where an item may come back at all; None: all.

        Returns:
            Candidates of shape (histories, count), full whenever enough items are eligible.
        """
        excluded = histories if excluded is None else excluded
        depth = max(self.config.depth, count)
        weights = {name: weight for name, weight in self.config.weights.items() if weight > 0}
        weights = weights or {"popularity": 1.0}  # every source is off
        rankings = {
            name: self._propose(name, histories, depth, excluded, eligible) for name in weights
        }
        fused = fuse(rankings, weights, self.config.rank_constant, count)
        self._fill(fused, excluded, eligible)
        return fused

    def similar(self, item: int, count: int) -> Candidates:
        """Return the items most like one item, as a one-row batch without open places.

        Two views are fused: items whose text is alike, and items that the same users consume.
        """
        itself = np.array([item], np.int32)
        weights: dict[SourceName, float] = {"als": 1.0, "text": 1.0}
        rankings = {
            name: self._nearest(name, self._vectors(name).item_vectors[itself], count, [itself])
            for name in weights
        }
        return fuse(rankings, weights, self.config.rank_constant, count).row(0, count)

    def popular(
        self, count: int, excluded: NDArray[np.int32], eligible: NDArray[np.bool_] | None
    ) -> NDArray[np.int32]:
        """Return up to `count` eligible items, most popular first."""
        return _first_others(self._popular_order(eligible), count, excluded)

    def _popular_order(self, eligible: NDArray[np.bool_] | None) -> NDArray[np.int32]:
        order = self.by_popularity
        return order if eligible is None else order[eligible[order]]

    def _propose(
        self,
        name: SourceName,
        histories: Sequence[History],
        depth: int,
        excluded: Sequence[NDArray[np.int32]],
        eligible: NDArray[np.bool_] | None,
    ) -> NDArray[np.int32]:
        """Return a source's (histories, depth) ranking; -1 where it has no more to say."""
        if name == "popularity":
            order = self._popular_order(eligible)
            return _stack([_first_others(order, depth, items) for items in excluded], depth)
        if name == "transitions":
            return _rank_followers(self.sources.transitions, histories, depth, excluded, eligible)
        return self._nearest(
            name, self._vectors(name).queries(histories), depth, excluded, eligible
        )

    def _vectors(self, name: SourceName) -> VectorModel:
        model: VectorModel = getattr(self.sources, name)
        return model

    def _nearest(
        self,
        name: SourceName,
        queries: NDArray[np.float32],
        depth: int,
        excluded: Sequence[NDArray[np.int32]],
        eligible: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int32]:
        ranking = self.sources.indexes[name].search(queries, depth, excluded, eligible).items
        ranking[~queries.any(axis=1)] = NO_ITEM  # a zero vector likes everything equally
        return ranking

    def _fill(
        self,
        fused: Candidates,
        excluded: Sequence[NDArray[np.int32]],
        eligible: NDArray[np.bool_] | None,
    ) -> None:
        """Put popular items into open places."""
        for row in np.flatnonzero(fused.items[:, -1] == NO_ITEM):
            start = int(np.count_nonzero(fused.items[row] != NO_ITEM))
            taken = np.concatenate([excluded[row], fused.items[row, :start]])
            more = self.popular(fused.items.shape[1] - start, taken, eligible)
            fused.items[row, start : start + len(more)] = more
            fused.sources[row, start : start + len(more)] = _bit("popularity")


def fuse(
    rankings: Mapping[SourceName, NDArray[np.int32]],
    weights: Mapping[SourceName, float],
    rank_constant: float,
    count: int,
) -> Candidates:
    """Fuse rankings by weighted reciprocal rank: the sum of weight / (rank_constant + rank).

    Source: Cormack, Clarke, Buettcher, Reciprocal Rank Fusion, SIGIR 2009.

    Args:
        rankings: For each of one or more sources (histories, depth) item numbers, best first, no
            item twice in a row; -1 for none.
        weights: Of each source in `rankings`, > 0.
        rank_constant: Larger values make the top of a ranking count less.
        count: Candidates to keep; equal scores are ordered by item number.
    """
    names = [name for name in SOURCE_NAMES if name in rankings]  # sums do not depend on the order
    stacked = np.concatenate([rankings[name] for name in names], axis=1)
    items, columns = np.unique(stacked, return_inverse=True)
    scores = np.zeros((len(stacked), len(items)))
    sources = np.zeros(scores.shape, np.uint8)
    rows = np.arange(len(stacked))[:, None]
    start = 0
    for name in names:
        depth = rankings[name].shape[1]
        proposed = columns[:, start : start + depth]
        scores[rows, proposed] += weights[name] / (rank_constant + np.arange(1, depth + 1))
        sources[rows, proposed] |= _bit(name)
        start += depth
    scores[(sources == 0) | (items == NO_ITEM)] = -np.inf

    fused = Candidates(
        items=np.full((len(stacked), count), NO_ITEM, np.int32),
        scores=np.zeros((len(stacked), count), np.float32),
        sources=np.zeros((len(stacked), count), np.uint8),
    )
    for row in range(len(stacked)):
        best = largest(scores[row], count)
        fused.items[row, : len(best)] = items[best]
        fused.scores[row, : len(best)] = scores[row, best]
        fused.sources[row, : len(best)] = sources[row, best]
    return fused


def popular_candidates(
    by_popularity: NDArray[np.int32],
    count: int,
    excluded: NDArray[np.int32],
    eligible: NDArray[np.bool_] | None,
) -> Candidates:
    """Return the first eligible items of an order, as a one-row batch without open places."""
    order = by_popularity if eligible is None else by_popularity[eligible[by_popularity]]
    items = _first_others(order, count, excluded)[None, :]
    scores = (1 / np.arange(1, items.shape[1] + 1)).astype(np.float32)[None, :]
    return Candidates(items, scores, np.full(items.shape, _bit("popularity"), np.uint8))


def source_names(bits: int) -> list[SourceName]:
    """Return the names of the sources in a bit set."""
    return [name for name in SOURCE_NAMES if bits & _bit(name)]


def _bit(name: SourceName) -> int:
    return 1 << SOURCE_NAMES.index(name)


def _rank_followers(
    model: Transitions,
    histories: Sequence[History],
    depth: int,
    excluded: Sequence[NDArray[np.int32]],
    eligible: NDArray[np.bool_] | None,
) -> NDArray[np.int32]:
    found = model.followers(histories)
    rankings = []
    for start, end, unwanted in zip(found.indptr, found.indptr[1:], excluded, strict=False):
        items, scores = found.indices[start:end], found.data[start:end]
        refused = mask_of(unwanted, found.shape[1])[items]
        if eligible is not None:
            refused |= ~eligible[items]
        scores[refused] = -np.inf
        rankings.append(items[largest(scores, depth)])
    return _stack(rankings, depth)


def _first_others(
    order: NDArray[np.int32], count: int, excluded: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return the first `count` items of an order that are not excluded."""
    first = order[: count + len(excluded)]  # at most so many can be lost
    return first[~np.isin(first, excluded)][:count]


def _stack(rankings: Sequence[NDArray[np.int32]], depth: int) -> NDArray[np.int32]:
    """Stack rankings into (histories, depth), filled up with -1."""
    stacked = np.full((len(rankings), depth), NO_ITEM, np.int32)
    for row, ranking in enumerate(rankings):
        stacked[row, : len(ranking)] = ranking
    return stacked
