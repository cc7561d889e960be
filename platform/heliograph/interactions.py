"""Interactions of users with items, as numbers: what every stage behind the cleaning sees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from heliograph.catalog import Catalogue
from heliograph.workspace import InputError

History = NDArray[np.int32]
"""(length,) item numbers of one user, oldest first."""


@dataclass(frozen=True)
class Interactions:
    """Every user's items in order of time, as one flat array."""

    user_ids: list[str]
    offsets: NDArray[np.int64]
    """(users + 1,); user u has the items offsets[u]:offsets[u + 1]."""

    items: NDArray[np.int32]
    """(events,) item numbers."""

    timestamps: NDArray[np.int64]
    """(events,) microseconds since 1970."""

    def __len__(self) -> int:
        return len(self.items)

    def history(self, user: int) -> History:
        """Return the items of a user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def histories(self) -> list[History]:
        """Return the items of every user."""
        return [self.history(user) for user in range(len(self.user_ids))]

    def owners(self) -> NDArray[np.int64]:
        """Return (events,) the number of the user whose event it is."""
        return np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets))

    def with_ties_shuffled(self, rng: np.random.Generator) -> Interactions:
        """Draw an order of the events that a user has at one and the same time."""
        order = np.lexsort((rng.random(len(self)), self.timestamps, self.owners()))
        return replace(self, items=self.items[order])

    def where(self, kept: NDArray[np.bool_]) -> Interactions:
        """Keep some of the events, by (events,) true; users without any keep their number."""
        lengths = np.bincount(self.owners()[kept], minlength=len(self.user_ids))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Interactions(self.user_ids, offsets, self.items[kept], self.timestamps[kept])

    def without_last(self, counts: NDArray[np.int64]) -> Interactions:
        """Drop the last `counts[u]` items of every user u; of one who has fewer, all."""
        places_from_end = self.offsets[1:][self.owners()] - np.arange(len(self))  # the last is 1
        return self.where(places_from_end > counts[self.owners()])


NO_INTERACTIONS = Interactions(
    [], np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)
)


def number_events(events: pa.Table, catalogue: Catalogue) -> Interactions:
    """Turn a table of events, ordered by user and time, into numbers.

    Raises:
        InputError: The catalogue lacks an item of the events.
    """
    items = pc.index_in(events["item_id"], value_set=pa.array(catalogue.ids, pa.string()))
    if items.null_count:
        unknown = events["item_id"].filter(items.is_null())[0]
        raise InputError(
            f"{items.null_count} of {len(items)} events are of items that are not in the "
            f"catalogue, such as {unknown}; ingest the events again with this catalogue"
        )
    users = events["user_id"].value_counts()  # in order of first appearance
    lengths = users.field("counts").to_numpy()
    return Interactions(
        user_ids=users.field("values").to_pylist(),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=items.to_numpy(),
        timestamps=events["timestamp"].cast(pa.int64()).to_numpy(),
    )
