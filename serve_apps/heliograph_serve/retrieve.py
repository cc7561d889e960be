"""The retrieval deployment: FAISS and the candidate models, a batch at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from heliograph.bundle import Bundle
from heliograph.candidates import Candidates, Retriever
from heliograph.events import History
from heliograph.filters import Filter, evaluate
from heliograph.index import mask_of
from heliograph_serve.autoscaling import Metered, WorkMeter
from heliograph_serve.crew import Answers, own_name
from heliograph_serve.shelf import Holder, Origin, Shelf

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


class BundleRetriever:
    """The candidate models of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.catalogue = bundle.catalogue()
        self.retriever = Retriever(bundle.sources(), bundle.config.candidates, bundle.blend())
        self._matching = lru_cache(maxsize=256)(self._evaluate)

    def retrieve(self, lookups: Sequence[Lookup]) -> list[Candidates]:
        """See `Retrieve.retrieve`."""
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


class Retrieve(Metered, Holder[BundleRetriever]):
    """Holds the candidate models of the served bundle, and of one beside it."""

    meter: WorkMeter

    def __init__(self, origin: Origin) -> None:
        self.shelf = Shelf(origin, BundleRetriever)
        self.meter = WorkMeter()
        self.replica = own_name()

    async def retrieve(self, bundle_id: str, lookups: Sequence[Lookup]) -> Answers[Candidates]:
        """Return candidates for each look-up, as one-row batches trimmed to what was found.

        Raises:
            NotHeld: The numbers are of a bundle that this replica does not hold.
        """
        held = self.shelf[bundle_id]
        with self.meter:
            if len(lookups) <= QUICK:
                found = held.retrieve(lookups)
            else:
                found = await asyncio.to_thread(held.retrieve, lookups)
        return Answers(found, self.replica)

    async def similar(self, bundle_id: str, item: int, count: int) -> Candidates:
        """Return the items most like one item, as a one-row batch.

        Raises:
            NotHeld: The number is of a bundle that this replica does not hold.
        """
        return await asyncio.to_thread(self.shelf[bundle_id].retriever.similar, item, count)


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
