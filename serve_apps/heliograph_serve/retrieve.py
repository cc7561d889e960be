"""The retrieval deployment: FAISS and the candidate models, a batch at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heliograph.bundle import open_bundle
from heliograph.candidates import Candidates, Retriever
from heliograph.events import History
from heliograph.filters import Filter, evaluate
from heliograph.index import mask_of

Narrowing = tuple[Filter | None, bytes | None]
"""A filter and the numbers of included items, as something that can be looked up."""

QUICK = 2
"""Look-ups that take about a millisecond together: waiting for a thread would take as long."""


@dataclass(frozen=True)
class Lookup:
    """One request for candidates."""

    history: History
    count: int
    """Candidates wanted."""

    excluded: NDArray[np.int32]
    """Item numbers that must not come back, the history's included."""

    filter: Filter | None = None
    """Which items may come back; None: all."""

    included: NDArray[np.int32] | None = None
    """Item numbers that alone may come back; None: all."""

    @property
    def is_narrowed(self) -> bool:
        """Whether some items may not come back, exclusions aside."""
        return self.filter is not None or self.included is not None

    @property
    def narrowing(self) -> Narrowing:
        """What decides which items may come back, exclusions aside."""
        return self.filter, None if self.included is None else self.included.tobytes()

    def key(self) -> tuple[bytes, bytes, int, Narrowing]:
        """Return what the answer depends on: of one bundle, equal keys have equal candidates."""
        return self.history.tobytes(), self.excluded.tobytes(), self.count, self.narrowing


class Retrieve:
    """Holds the candidate models of a bundle."""

    def __init__(self, bundle: Path) -> None:
        opened = open_bundle(bundle)
        self.catalogue = opened.catalogue()
        self.retriever = Retriever(opened.sources(), opened.config.candidates, opened.blend())
        self._matching = lru_cache(maxsize=256)(self._evaluate)

    async def retrieve(self, lookups: Sequence[Lookup]) -> list[Candidates]:
        """Return candidates for each look-up, as one-row batches trimmed to what was found."""
        if len(lookups) <= QUICK:
            return self._retrieve(lookups)
        return await asyncio.to_thread(self._retrieve, lookups)

    async def similar(self, item: int, count: int) -> Candidates:
        """Return the items most like one item, as a one-row batch."""
        return await asyncio.to_thread(self.retriever.similar, item, count)

    def _retrieve(self, lookups: Sequence[Lookup]) -> list[Candidates]:
        answers: dict[int, Candidates] = {}
        groups: dict[tuple[Narrowing, int], list[int]] = defaultdict(list)
        for place, lookup in enumerate(lookups):
            groups[lookup.narrowing, lookup.count].append(place)
        for (_, count), places in groups.items():
            group = [lookups[place] for place in places]
            found = self.retriever.retrieve(
                [lookup.history for lookup in group],
                count,
                [lookup.excluded for lookup in group],
                eligible_of(group[0], self._matching, len(self.catalogue)),
            )
            for row, place in enumerate(places):
                answers[place] = found.row(row, count)
        return [answers[place] for place in range(len(lookups))]

    def _evaluate(self, condition: Filter) -> NDArray[np.bool_]:
        return evaluate(condition, self.catalogue.attributes)


def eligible_of(
    lookup: Lookup, matching: Callable[[Filter], NDArray[np.bool_]], n_items: int
) -> NDArray[np.bool_] | None:
    """Return (items,), true where an item may come back, exclusions aside; None: all may.

    Args:
        lookup: Its filter and inclusions decide.
        matching: Filter -> (items,), true where it is; what it returns is not changed.
        n_items: Of the catalogue.
    """
    matched = None if lookup.filter is None else matching(lookup.filter)
    if lookup.included is None:
        return matched
    included = mask_of(lookup.included, n_items)
    return included if matched is None else included & matched
