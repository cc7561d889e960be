"""What the ingress remembers of retrieval."""

from __future__ import annotations

import numpy as np

from heliograph.candidates import Candidates
from heliograph.filters import Check, Filter, Matches, Not
from heliograph_serve.cache import CandidateCache
from heliograph_serve.retrieve import Lookup

NEW = Matches("year", "number", (Check("gte", (1994.0,)),))


def lookup(*history: int, count: int = 4, filter: Filter | None = None) -> Lookup:
    items = np.array(history, np.int32)
    return Lookup(items, count, items, filter)


def found(count: int = 4) -> Candidates:
    return Candidates(
        np.arange(count, dtype=np.int32)[None, :],
        np.zeros((1, count), np.float32),
        np.zeros((1, count), np.float32),
        np.zeros((1, count), np.uint8),
    )


def test_an_equal_look_up_finds_what_was_put() -> None:
    cache, candidates = CandidateCache(1), found()
    cache.put(lookup(1, 2), candidates)
    again = cache.get(lookup(1, 2))
    assert again is not None and (again.items == candidates.items).all()
    assert not np.shares_memory(again.items, candidates.items)  # of a batch that may be large
    assert (cache.hits, cache.misses) == (1, 0)


def test_whatever_changes_the_candidates_is_another_look_up() -> None:
    cache = CandidateCache(1)
    cache.put(lookup(1, 2), found())
    plain = lookup(1, 2)
    others = [
        lookup(1, 2, 3),
        lookup(2, 1),
        lookup(1, 2, count=5),
        lookup(1, 2, filter=NEW),
        lookup(1, 2, filter=Not(NEW)),
        Lookup(plain.history, plain.count, plain.excluded, included=plain.history),
        Lookup(plain.history, plain.count, np.array([1, 2, 9], np.int32)),
    ]
    assert [cache.get(other) for other in others] == [None] * len(others)


def test_the_memory_is_bounded_and_the_newest_stay() -> None:
    cache = CandidateCache(1)
    for user in range(2000):
        cache.put(lookup(user), found(128))
    kept = [user for user in range(2000) if cache.get(lookup(user)) is not None]
    assert 300 < len(kept) < 1000
    assert kept == list(range(2000 - len(kept), 2000))


def test_what_is_larger_than_the_memory_is_not_kept() -> None:
    cache = CandidateCache(1)
    cache.put(lookup(1), found(200_000))
    assert cache.get(lookup(1)) is None
