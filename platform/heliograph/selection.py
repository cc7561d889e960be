"""A ranking -> the answer: at most so many items of a kind, and not all alike.

Everything is chosen greedily from the best downwards. An answer is never shorter than it can be:
where caps leave places open, the best of what they left out take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from heliograph.attributes import Attribute

FIRST_BLOCK, LARGEST_BLOCK = 1024, 16_384
"""Items of a ranking that are checked at once: few where the first ones fill the answer."""


class Groups:
    """Which values of a column each item has, as numbers."""

    def __init__(self, attribute: Attribute, n_items: int) -> None:
        entries = pc.dictionary_encode(attribute.entries)
        self.size = len(entries.dictionary)
        pairs = np.unique(attribute.rows * max(self.size, 1) + entries.indices.to_numpy())
        rows, self.values = np.divmod(pairs, max(self.size, 1))
        self.offsets = np.searchsorted(rows, np.arange(n_items + 1))

    def of(self, item: int) -> NDArray[np.int64]:
        """Return the distinct values of one item."""
        return self.values[self.offsets[item] : self.offsets[item + 1]]

    def any_of(self, items: NDArray[np.int32], marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Tell which items have a value that is marked in (values,)."""
        counts = self.offsets[items + 1] - self.offsets[items]
        owners = np.repeat(np.arange(len(items)), counts)
        starts = np.cumsum(counts) - counts
        places = np.arange(len(owners)) - starts[owners] + self.offsets[items][owners]
        return np.bincount(owners, marked[self.values[places]], minlength=len(items)) > 0


@dataclass(frozen=True)
class Cap:
    """At most `limit` items of an answer have the same value."""

    groups: Groups
    limit: int


class Room:
    """What caps leave open while an answer is chosen."""

    def __init__(self, caps: Sequence[Cap]) -> None:
        self._caps = caps
        self._chosen = [np.zeros(cap.groups.size, np.int64) for cap in caps]

    def is_open(self, items: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Tell which of (items,) item numbers may still be chosen."""
        is_open = np.ones(len(items), bool)
        for cap, chosen in zip(self._caps, self._chosen, strict=True):
            is_open &= ~cap.groups.any_of(items, chosen >= cap.limit)
        return is_open

    def take(self, item: int) -> bool:
        """Choose an item if it may be chosen; tells whether it was."""
        values = [cap.groups.of(item) for cap in self._caps]
        counts = zip(self._caps, self._chosen, values, strict=True)
        if any((chosen[of_item] >= cap.limit).any() for cap, chosen, of_item in counts):
            return False
        for chosen, of_item in zip(self._chosen, values, strict=True):
            chosen[of_item] += 1
        return True


@dataclass(frozen=True)
class Diversity:
    """Maximal marginal relevance over the first items of a ranking."""

    weight: float
    """1 - lambda, in [0, 1]."""

    relevance: NDArray[np.float64]
    """(pool,) in [0, 1]."""

    vectors: NDArray[np.float32]
    """(pool, dim) of length 1, or 0 where nothing is known."""


@dataclass(frozen=True)
class Selection:
    """Places of a ranking, in the order of the answer."""

    places: NDArray[np.int64]
    within_caps: int
    """Places from the first on that keep to the caps; the others had to be filled."""


def select(
    items: NDArray[np.int32], n: int, caps: Sequence[Cap], diversity: Diversity | None
) -> Selection:
    """Choose n items of a ranking.

    First, if asked, the pool is chosen from by maximal marginal relevance; then the rest of the
    ranking is gone through in its order; both within the caps. What is missing then is filled
    with the first of the others.

    Args:
        items: (ranked,) distinct item numbers, best first.
        n: Items wanted.
        caps: All of them hold.
        diversity: Over the first items of the ranking; None: the order alone counts.

    Returns:
        min(n, ranked) places.
    """
    room = Room(caps)
    places = [] if diversity is None else _diverse(items, n, room, diversity)
    places += _in_order(items, n - len(places), room, taken=places)
    within = len(places)
    if within < n:
        left = np.ones(len(items), bool)
        left[places] = False
        places += np.flatnonzero(left)[: n - within].tolist()
    return Selection(np.array(places, np.int64), within)


def relevance_of(nats: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bring (pool,) scores to [0, 1], the best to 1 and the last to 0; equal ones are all 1."""
    if not len(nats):
        return np.zeros(0)
    lowest, span = float(nats.min()), float(np.ptp(nats))
    return (nats.astype(np.float64) - lowest) / span if span else np.ones(len(nats))


def _diverse(items: NDArray[np.int32], n: int, room: Room, diversity: Diversity) -> list[int]:
    """Choose places by maximal marginal relevance (Carbonell and Goldstein 1998).

    The next item is the one with the largest lambda * relevance - (1 - lambda) * its largest cosine
    with what is chosen; of equal ones the better ranked.
    """
    pool = items[: len(diversity.relevance)]
    cosines = diversity.vectors.astype(np.float64) @ diversity.vectors.T.astype(np.float64)
    gains = (1 - diversity.weight) * diversity.relevance
    closest = np.zeros(len(pool))
    left = np.ones(len(pool), bool)
    places: list[int] = []
    while len(places) < n:
        is_open = left & room.is_open(pool)
        if not is_open.any():
            break
        best = int(np.argmax(np.where(is_open, gains - diversity.weight * closest, -np.inf)))
        room.take(int(pool[best]))
        closest = np.maximum(closest, cosines[best]) if places else cosines[best]
        left[best] = False
        places.append(best)
    return places


def _in_order(items: NDArray[np.int32], n: int, room: Room, taken: Sequence[int]) -> list[int]:
    """Choose up to n places in the order of the ranking, those not taken that caps leave open."""
    left = np.ones(len(items), bool)
    left[np.array(taken, np.int64)] = False
    places: list[int] = []
    start, size = 0, FIRST_BLOCK
    while start < len(items) and len(places) < n:
        block = items[start : start + size]
        for place in np.flatnonzero(left[start : start + size] & room.is_open(block)):
            if len(places) == n:
                break
            if room.take(int(block[place])):
                places.append(start + int(place))
        start, size = start + size, min(2 * size, LARGEST_BLOCK)
    return places
