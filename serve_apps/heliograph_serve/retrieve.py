"""The retrieval deployment: FAISS and the candidate models, a batch at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from heliograph.bundle import Bundle
from heliograph.candidates import Candidates, Retriever
from heliograph.catalog import Catalogue
from heliograph.config import ServeConfig
from heliograph.explanation import Traced, trace
from heliograph.filters import Filter, evaluate
from heliograph.index import mask_of
from heliograph.interactions import History
from heliograph.item_changes import Changes
from heliograph.revision import (
    Revision,
    encoding,
    revise,
    revised_catalogue,
    revised_sources,
    unavailable,
)
from heliograph_serve.autoscaling import Metered, WorkMeter
from heliograph_serve.columns import columns_of
from heliograph_serve.crew import Answers, own_name
from heliograph_serve.garbage import collect_seldom
from heliograph_serve.item_follower import Edition, ItemFollower, log_of
from heliograph_serve.shelf import Holder, Origin, Shelf

Narrowing = tuple[Filter | None, bytes | None]
"""A filter and the numbers of included items, as something that can be looked up."""

QUICK = 2
"""Look-ups that take about a millisecond together: waiting for a thread would take as long."""

FEW = 64
"""Unavailable items that are dropped from deeper searches; more are kept out by a filter."""

NOBODY = np.zeros(0, np.int32)


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

    def among(self, n_items: int) -> Lookup:
        """Return the look-up without items whose number is too large for a catalogue."""
        included = self.included
        return replace(
            self,
            history=self.history[self.history < n_items],
            excluded=self.excluded[self.excluded < n_items],
            included=None if included is None else included[included < n_items],
        )

    def key(self) -> tuple[bytes, bytes, int, Narrowing]:
        """Return what the answer depends on: of one bundle, equal keys have equal candidates."""
        return self.history.tobytes(), self.excluded.tobytes(), self.count, self.narrowing


class BundleRetriever:
    """The candidate models of one bundle."""

    def __init__(
        self, bundle: Bundle, catalogue: Catalogue, retriever: Retriever, revision: Revision | None
    ) -> None:
        """Take a bundle's catalogue and retriever with the changes of a revision, None: without."""
        self.bundle = bundle
        self.catalogue = catalogue
        self.retriever = retriever
        self.revision = revision
        self.unavailable = NOBODY if revision is None else revision.unavailable
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
                [self._excluded(lookup) for lookup in group],
                self._eligible(group[0]),
            )
            for row, place in enumerate(places):
                answers[place] = found.row(row, count)
        return [answers[place] for place in range(len(lookups))]

    def _excluded(self, lookup: Lookup) -> NDArray[np.int32]:
        """Return what must not come back, with a few unavailable items: the cheapest way."""
        if 0 < len(self.unavailable) <= FEW:
            return np.concatenate([lookup.excluded, self.unavailable])
        return lookup.excluded

    def _eligible(self, lookup: Lookup) -> NDArray[np.bool_] | None:
        eligible = eligible_of(lookup, self._matching, len(self.catalogue))
        if len(self.unavailable) <= FEW:
            return eligible
        available = ~mask_of(self.unavailable, len(self.catalogue))
        return available if eligible is None else eligible & available

    def _evaluate(self, condition: Filter) -> NDArray[np.bool_]:
        return evaluate(condition, self.catalogue.attributes)


def load_retriever(bundle: Bundle) -> BundleRetriever:
    """Read the candidate models of a bundle."""
    retriever = Retriever(bundle.sources(), bundle.config.candidates, bundle.blend())
    return BundleRetriever(bundle, bundle.catalogue(), retriever, None)


def amended(base: BundleRetriever, now: BundleRetriever, changes: Changes) -> BundleRetriever:
    """Return the candidate models with changes of items.

    Args:
        base: Without any.
        now: With those up to now, of which nothing changes.
        changes: All.
    """
    if now.revision is not None and now.revision.content == changes.content:
        gone = unavailable(changes, now.catalogue.row_of.get)
        revision = replace(now.revision, unavailable=gone)
        return BundleRetriever(base.bundle, now.catalogue, now.retriever, revision)
    config = base.bundle.config
    revision = revise(base.catalogue, config, changes, encoding(config.embedding))
    retriever = Retriever(
        revised_sources(base.retriever.sources, revision), config.candidates, base.retriever.blend
    )
    return BundleRetriever(
        base.bundle, revised_catalogue(base.catalogue, revision), retriever, revision
    )


@dataclass(frozen=True)
class Held:
    """A bundle's candidate models: as it has them, and with the changes of items since."""

    base: BundleRetriever
    now: BundleRetriever


class Retrieve(Metered, Holder[Held]):
    """Holds the candidate models of the served bundle, and of one beside it."""

    meter: WorkMeter

    def __init__(self, origin: Origin, serve: ServeConfig) -> None:
        collect_seldom()
        self.shelf = Shelf(origin, _load, amend=_amend)
        self.items = ItemFollower(log_of(serve, origin.bundles), self.shelf)
        self.meter = WorkMeter()
        self.replica = own_name()

    async def retrieve(self, edition: Edition, lookups: Sequence[Lookup]) -> Answers[Candidates]:
        """Return candidates for each look-up, as one-row batches trimmed to what was found.

        Raises:
            NotHeld: The numbers are of a bundle that this replica does not hold.
        """
        lags = await self.items.lags_behind(edition)
        held = self.shelf[edition.bundle].now
        if lags:
            lookups = [lookup.among(len(held.catalogue)) for lookup in lookups]
        with self.meter:
            if len(lookups) <= QUICK:
                found = held.retrieve(lookups)
            else:
                found = await asyncio.to_thread(held.retrieve, lookups)
        return Answers(columns_of(found), self.replica)

    async def similar(self, edition: Edition, item: int, count: int) -> Candidates:
        """Return the items most like one item, as a one-row batch.

        Raises:
            NotHeld: The number is of a bundle that this replica does not hold.
        """
        await self.items.lags_behind(edition)
        held = self.shelf[edition.bundle].now
        return await asyncio.to_thread(held.retriever.similar, item, count, held.unavailable)

    async def trace(self, edition: Edition, history: History, items: NDArray[np.int32]) -> Traced:
        """Return what every source says of some items after a history, and where it has it from.

        Raises:
            NotHeld: The numbers are of a bundle that this replica does not hold.
            ValueError: It does not know of an item yet.
        """
        await self.items.lags_behind(edition)
        held = self.shelf[edition.bundle].now
        known = len(held.catalogue)
        if max(history.max(initial=0), items.max(initial=0)) >= known:
            raise ValueError(f"item numbers must be below {known}")
        return await asyncio.to_thread(trace, held.retriever.sources, history, items)


def _load(bundle: Bundle) -> Held:
    retriever = load_retriever(bundle)
    return Held(retriever, retriever)


async def _amend(held: Held, changes: Changes) -> Held:
    return replace(held, now=await asyncio.to_thread(amended, held.base, held.now, changes))


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
