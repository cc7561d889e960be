"""Histories -> candidates: several sources propose, and their evidence adds up.

Whoever proposed an item, every source's evidence for it counts. Filters and exclusions are applied
inside each source, so that a narrow filter still gives full lists; popularity, which ranks every
item, always proposes and fills what the others leave open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from heliograph.blend import Blend
from heliograph.config import SOURCE_NAMES, CandidatesConfig, Proposer, SourceName
from heliograph.index import NO_ITEM, distinct, largest
from heliograph.interactions import History
from heliograph.sources import Limits, Sources, first_others

PROPOSERS: tuple[Proposer, ...] = (*SOURCE_NAMES, "item_lm")
"""Who can bring an item into an answer: the sources, and the item LM itself."""

BITS = len(PROPOSERS)
"""Of a set of them."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of a batch of histories with the most evidence, in order of score."""

    items: NDArray[np.int32]
    """(histories, count) item numbers; -1 where no more items are eligible."""

    scores: NDArray[np.float32]
    """(histories, count) sums of evidence, weighted to stand alone; 0 beside -1."""

    evidence: NDArray[np.float32]
    """(histories, count) the same, weighted to stand beside the item LM, and counted from the last
    of the best `candidates.count`, at least 0; 0 beside -1."""

    proposers: NDArray[np.uint8]
    """(histories, count) bit p is set where `PROPOSERS[p]` proposed the item."""

    def row(self, row: int, count: int) -> Candidates:
        """Return one history's first `count` items as a batch of its own, without open places."""
        found = int(np.count_nonzero(self.items[row, :count] != NO_ITEM))
        part = np.s_[row : row + 1, :found]
        return Candidates(
            self.items[part], self.scores[part], self.evidence[part], self.proposers[part]
        )

    def copy(self) -> Candidates:
        """Return a batch with arrays of its own."""
        return Candidates(
            self.items.copy(), self.scores.copy(), self.evidence.copy(), self.proposers.copy()
        )

    def among(self, n_items: int) -> Candidates:
        """Return a one-row batch without items whose number is too large for a catalogue."""
        if not self.items.size or self.items.max() < n_items:
            return self
        return self.take(np.flatnonzero(self.items[0] < n_items))

    def take(self, places: NDArray[np.int64]) -> Candidates:
        """Return some places of every row, in their order."""
        part = np.s_[:, places]
        return Candidates(
            self.items[part], self.scores[part], self.evidence[part], self.proposers[part]
        )

    def followed_by(self, others: Candidates) -> Candidates:
        """Return a batch whose rows go on with those of another."""
        return Candidates(
            np.concatenate([self.items, others.items], axis=1),
            np.concatenate([self.scores, others.scores], axis=1),
            np.concatenate([self.evidence, others.evidence], axis=1),
            np.concatenate([self.proposers, others.proposers], axis=1),
        )


@dataclass(frozen=True)
class Proposals:
    """What the sources propose for one history, and every source's evidence for all of it."""

    items: NDArray[np.int32]
    """(proposed,) item numbers, ascending."""

    evidence: NDArray[np.float32]
    """(proposed, sources) in the order of `SOURCE_NAMES`."""

    proposers: NDArray[np.uint8]
    """(proposed,) bits as in `Candidates`."""


class Retriever:
    """Proposes candidates for histories."""

    def __init__(self, sources: Sources, config: CandidatesConfig, blend: Blend) -> None:
        self.sources = sources
        self.config = config
        self.blend = blend

    def retrieve(
        self,
        histories: Sequence[History],
        count: int,
        excluded: Sequence[NDArray[np.int32]] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> Candidates:
        """Return the items with the most evidence for each history.

        Args:
            histories: Item numbers, oldest first; an empty one gets popular items.
            count: Candidates a history.
            excluded: For each history the items that must not come back; default: the history.
            eligible: (items,), true where an item may come back at all; None: all.

        Returns:
            Candidates of shape (histories, count), full whenever enough items are eligible.
        """
        limits = Limits(
            max(self.config.depth, count), histories if excluded is None else excluded, eligible
        )
        weights = np.stack([self.blend.weights(histories), self.blend.alone(histories)], axis=2)
        found = _none(len(histories), count)
        for row, proposals in enumerate(self.propose(histories, limits)):
            evidence, scores = np.ascontiguousarray((proposals.evidence @ weights[row]).T)
            best = largest(evidence, count)
            best = best[np.argsort(-scores[best], kind="stable")]
            found.items[row, : len(best)] = proposals.items[best]
            found.scores[row, : len(best)] = scores[best]
            found.evidence[row, : len(best)] = evidence[best]
            found.proposers[row, : len(best)] = proposals.proposers[best]
        evidence = np.where(found.items == NO_ITEM, -np.inf, found.evidence)
        return replace(found, evidence=above_last(evidence, self.config.count))

    def propose(
        self,
        histories: Sequence[History],
        limits: Limits,
        item_lm: Sequence[NDArray[np.int32]] | None = None,
    ) -> Iterator[Proposals]:
        """Yield for each history what is proposed, with its evidence unweighted.

        Args:
            histories: Item numbers, oldest first.
            limits: Of the sources.
            item_lm: For each history items that the item LM proposes, if it is asked too.
        """
        asked = self.sources.ask(histories, limits)
        for row in range(len(histories)):
            best: dict[Proposer, NDArray[np.int32]] = {
                name: source.best(row) for name, source in asked.items()
            }
            if item_lm is not None:
                best["item_lm"] = item_lm[row]
            items, proposers = _united(best)
            evidence = [asked[name].evidence(row, items) for name in SOURCE_NAMES]
            yield Proposals(items, np.stack(evidence, axis=1), proposers)

    def similar(
        self, item: int, count: int, excluded: NDArray[np.int32] | None = None
    ) -> Candidates:
        """Return the items most like one item, as a one-row batch without open places.

        Two views add up: the cosines of the texts, and those of the items' ALS factors.

        Args:
            item: Its number.
            count: Items wanted.
            excluded: Items that must not come back, besides itself.
        """
        others = [item] if excluded is None else [item, *excluded]
        limits = Limits(count, [np.array(others, np.int32)], None)
        nearest = {
            name: self._nearest(name, vectors[item], limits)
            for name, vectors in self.sources.item_vectors().items()
        }
        items = distinct(np.concatenate(list(nearest.values())))
        items = items[items != NO_ITEM]
        scores = np.zeros(len(items), np.float32)
        proposers = np.zeros(len(items), np.uint8)
        for name, vectors in self.sources.item_vectors().items():
            scores += _cosines(vectors[items], vectors[item])
            proposers[np.isin(items, nearest[name])] |= _bit(name)
        best = largest(scores, count)
        found = scores[best][None]
        return Candidates(items[best][None], found, found, proposers[best][None])

    def _nearest(
        self, name: SourceName, vector: NDArray[np.float32], limits: Limits
    ) -> NDArray[np.int32]:
        if not vector.any():  # the model knows nothing of the item
            return np.zeros(0, np.int32)
        index = self.sources.indexes[name]
        excluded = limits.among(len(index)).excluded
        nearest: NDArray[np.int32] = index.search(vector[None], limits.depth, excluded).items[0]
        return nearest


def above_last(evidence: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return what each candidate has more evidence than the last of its history's best `count`.

    Items that are no candidates stand with that last one. Where a history has fewer candidates than
    `count`, every eligible item is one.

    Args:
        evidence: (histories, candidates) in any order, -inf at open places.
        count: As of `candidates.count`.

    Returns:
        An array of that shape, at least 0; 0 at open places.
    """
    best = -np.sort(-evidence, axis=1)[:, :count]
    last = np.where(best > -np.inf, best, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    above = np.where(evidence > -np.inf, np.maximum(evidence - last, 0), 0)
    return np.asarray(above, np.float32)


def popular_candidates(
    by_popularity: NDArray[np.int32],
    count: int,
    excluded: NDArray[np.int32],
    eligible: NDArray[np.bool_] | None,
) -> Candidates:
    """Return the first eligible items of an order, as a one-row batch without open places."""
    order = by_popularity if eligible is None else by_popularity[eligible[by_popularity]]
    items = first_others(order, count, excluded)[None, :]
    scores = (1 / np.arange(1, items.shape[1] + 1)).astype(np.float32)[None, :]
    proposers = np.full(items.shape, _bit("popularity"), np.uint8)
    return Candidates(items, scores, np.zeros_like(scores), proposers)


@cache
def proposer_names(bits: int) -> tuple[Proposer, ...]:
    """Return the names of the proposers in a bit set."""
    return tuple(name for name in PROPOSERS if bits & _bit(name))


def _united(
    proposed: Mapping[Proposer, NDArray[np.int32]],
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the items of all lists, ascending, and the bits of those who proposed each."""
    bits = [np.full(len(items), _bit(name), np.int64) for name, items in proposed.items()]
    items = np.concatenate(list(proposed.values()))
    # an item and who proposed it as one number: one sort brings together what is of one item
    keys = np.sort(items.astype(np.int64) << BITS | np.concatenate(bits))
    ordered = keys >> BITS
    first = np.flatnonzero(np.diff(ordered, prepend=NO_ITEM - 1))
    proposers = np.bitwise_or.reduceat(keys & (1 << BITS) - 1, first)
    return ordered[first].astype(np.int32), proposers.astype(np.uint8)


def _none(histories: int, count: int) -> Candidates:
    shape = (histories, count)
    return Candidates(
        items=np.full(shape, NO_ITEM, np.int32),
        scores=np.zeros(shape, np.float32),
        evidence=np.zeros(shape, np.float32),
        proposers=np.zeros(shape, np.uint8),
    )


def _bit(name: Proposer) -> int:
    return 1 << PROPOSERS.index(name)


def _cosines(vectors: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each vector with one; 0 where one of both is zero."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    cosines = np.zeros(len(vectors), np.float32)
    np.divide(vectors @ vector, lengths, out=cosines, where=lengths > 0)
    return cosines
