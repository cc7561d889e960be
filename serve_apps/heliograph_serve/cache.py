"""Remembers the candidates of users who come back before they have done anything new.

The key is everything that candidates depend on within one bundle, so what is found here is what
retrieval would say; nothing has to expire. When items change, a new cache begins.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from cachetools import LRUCache

from heliograph.candidates import Candidates
from heliograph.interactions import History
from heliograph_serve.retrieve import Lookup

OVERHEAD = 1024
"""Bytes of an entry beside its arrays."""

BYTES_A_CHARACTER = 4
"""Of a filter's text: about what its objects take."""


class CandidateCache:
    """The least recently used look-ups go first when the memory is full."""

    def __init__(self, megabytes: int) -> None:
        self._entries: LRUCache[Hashable, tuple[Lookup, Candidates]] = LRUCache(
            megabytes << 20, getsizeof=_size
        )
        self.megabytes = megabytes
        self.hits = 0
        self.misses = 0

    def emptied(self) -> CandidateCache:
        """Return a cache with the same counts, in which nothing is remembered."""
        new = CandidateCache(self.megabytes)
        new.hits, new.misses = self.hits, self.misses
        return new

    def get(self, lookup: Lookup) -> Candidates | None:
        """Return what was found for an equal look-up, if it is still here."""
        entry = self._entries.get(lookup.key())
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        return entry[1]

    def forget(self, history: History | None) -> int:
        """Drop what was found for a history and for those it grew from; returns how many.

        None drops everything.
        """
        grown_from = [
            key
            for key, (lookup, _) in self._entries.items()
            if history is None
            or len(lookup.history)
            and np.array_equal(lookup.history, history[: len(lookup.history)])
        ]
        for key in grown_from:
            del self._entries[key]
        return len(grown_from)

    def put(self, lookup: Lookup, candidates: Candidates) -> None:
        """Remember what was found, but not the batch of which it is a part."""
        entry = (lookup, candidates.copy())
        if _size(entry) <= self._entries.maxsize:
            self._entries[lookup.key()] = entry


def _size(entry: tuple[Lookup, Candidates]) -> int:
    lookup, candidates = entry
    key = lookup.history.nbytes + lookup.excluded.nbytes
    if lookup.included is not None:
        key += lookup.included.nbytes
    if lookup.filter is not None:
        key += BYTES_A_CHARACTER * len(repr(lookup.filter))
    value = sum(
        array.nbytes
        for array in (
            candidates.items,
            candidates.scores,
            candidates.evidence,
            candidates.proposers,
        )
    )
    return OVERHEAD + 2 * key + value  # the arrays of the look-up, and their bytes in the key
