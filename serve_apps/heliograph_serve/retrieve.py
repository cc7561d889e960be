"""The retrieval deployment: FAISS and the candidate models, a batch at a time."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heliograph.bundle import open_bundle
from heliograph.candidates import Candidates, Retriever
from heliograph.events import History

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

    conditions: Mapping[str, str | list[str]] = field(default_factory=dict)
    """Catalogue column -> wanted values."""

    def key(self) -> tuple[bytes, bytes, int, str]:
        """Return what the answer depends on: of one bundle, equal keys have equal candidates."""
        conditions = json.dumps(self.conditions, sort_keys=True) if self.conditions else ""
        return self.history.tobytes(), self.excluded.tobytes(), self.count, conditions


class Retrieve:
    """Holds the candidate models of a bundle."""

    def __init__(self, bundle: Path) -> None:
        opened = open_bundle(bundle)
        self.catalogue = opened.catalogue()
        self.retriever = Retriever(opened.sources(), opened.config.candidates, opened.blend())
        self._eligible = lru_cache(maxsize=256)(self._matching)

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
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        for place, lookup in enumerate(lookups):
            conditions = json.dumps(lookup.conditions, sort_keys=True)
            groups[conditions, lookup.count].append(place)
        for (conditions, count), places in groups.items():
            group = [lookups[place] for place in places]
            found = self.retriever.retrieve(
                [lookup.history for lookup in group],
                count,
                [lookup.excluded for lookup in group],
                self._eligible(conditions) if conditions != "{}" else None,
            )
            for row, place in enumerate(places):
                answers[place] = found.row(row, count)
        return [answers[place] for place in range(len(lookups))]

    def _matching(self, conditions: str) -> NDArray[np.bool_]:
        return self.catalogue.matching(json.loads(conditions))
