"""What each user has consumed, as the online graph looks it up.

The histories of a bundle are read-only; what users have done since comes from the event store and
is merged in. Both are numbers here, like everything inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from heliograph.config import EventsConfig
from heliograph.event_store.event import Occurrence
from heliograph.interactions import NO_INTERACTIONS, History, Interactions
from heliograph.workspace import InputError

HISTORIES_FILE = "histories.parquet"
HISTORIES_LAYOUT = 2
"""Counts the changes of what the file holds."""

_NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Past:
    """What one user is known to have done."""

    history: History
    """Items that the user has taken to, oldest first."""

    times: NDArray[np.int64]
    """(length of the history,) microseconds since 1970, ascending."""

    disliked: NDArray[np.int32]
    """Items that the user has turned down."""

    @property
    def excluded(self) -> NDArray[np.int32]:
        """Items that are not to be offered."""
        return np.concatenate([self.history, self.disliked]) if len(self.disliked) else self.history

    def since(self, erased_us: int) -> Past:
        """Leave out what was up to a time; items turned down have none and go as a whole."""
        kept = self.times > erased_us
        return Past(self.history[kept], self.times[kept], _NOTHING)


NO_PAST = Past(_NOTHING, np.zeros(0, np.int64), _NOTHING)


class Histories:
    """Finds a user's history by identifier."""

    def __init__(
        self, interactions: Interactions, disliked: Interactions = NO_INTERACTIONS
    ) -> None:
        self.interactions = interactions
        self.user_of = {user_id: user for user, user_id in enumerate(interactions.user_ids)}
        self._disliked = disliked
        self._disliker_of = {user_id: user for user, user_id in enumerate(disliked.user_ids)}

    def __len__(self) -> int:
        return len(self.user_of)

    def find(self, user_id: str) -> History | None:
        """Return the items of a user, oldest first, or None if the user is unknown."""
        user = self.user_of.get(user_id)
        return None if user is None else self.interactions.history(user)

    def past(self, user_id: str) -> Past:
        """Return everything known of a user, of an unknown one nothing."""
        user, disliker = self.user_of.get(user_id), self._disliker_of.get(user_id)
        disliked = _NOTHING if disliker is None else self._disliked.history(disliker)
        if user is None:
            return Past(_NOTHING, NO_PAST.times, disliked)
        of_user = slice(*self.interactions.offsets[user : user + 2])
        return Past(
            self.interactions.items[of_user], self.interactions.timestamps[of_user], disliked
        )


def merged(
    past: Past,
    occurrences: Sequence[Occurrence],
    row_of: Mapping[str, int],
    config: EventsConfig,
) -> Past:
    """Add what a user has done since; an event that the past has already is not added again.

    Args:
        past: Of the bundle.
        occurrences: Oldest first; those of items without a row are left out.
        row_of: Item id -> row in the catalogue.
        config: Says which types are interactions and which turn an item down.
    """
    there = set(zip(past.history.tolist(), past.times.tolist(), strict=True))
    rows, times, disliked = [], [], []
    for occurrence in occurrences:
        row = row_of.get(occurrence.item_id)
        if row is None or occurrence.type in config.ignored_types:
            continue
        if occurrence.type in config.rejecting_types:
            disliked.append(row)
        elif (row, occurrence.time_us) not in there:
            rows.append(row)
            times.append(occurrence.time_us)
    all_times = np.concatenate([past.times, np.array(times, np.int64)])
    order = np.argsort(all_times, kind="stable")
    return Past(
        np.concatenate([past.history, np.array(rows, np.int32)])[order],
        all_times[order],
        np.concatenate([past.disliked, np.array(disliked, np.int32)]),
    )


def write_histories(
    interactions: Interactions, path: Path, disliked: Interactions = NO_INTERACTIONS
) -> None:
    """Write one row a user: `user_id`, the lists `items` and `times`, oldest first, and `disliked`.

    Items are item numbers, times microseconds since 1970.
    """
    turned_down = dict(zip(disliked.user_ids, disliked.histories(), strict=True))
    known = set(interactions.user_ids)
    others = [user for user in disliked.user_ids if user not in known]
    users = [*interactions.user_ids, *others]
    offsets = pa.array(np.pad(interactions.offsets, (0, len(others)), mode="edge"), pa.int32())
    columns = {
        "user_id": pa.array(users, pa.string()),
        "items": pa.ListArray.from_arrays(offsets, pa.array(interactions.items, pa.int32())),
        "times": pa.ListArray.from_arrays(offsets, pa.array(interactions.timestamps, pa.int64())),
        "disliked": pa.array(
            [turned_down.get(user, _NOTHING) for user in users], pa.list_(pa.int32())
        ),
    }
    pq.write_table(pa.table(columns), path)


def read_histories(path: Path) -> Histories:
    """Read what `write_histories` wrote.

    Raises:
        InputError: An older heliograph wrote it.
    """
    table = pq.read_table(path)
    if not {"times", "disliked"} <= set(table.column_names):
        raise InputError(f"{path} is of an older heliograph; write the bundle again")
    liked, turned_down = _of_users_with(table, "items"), _of_users_with(table, "disliked")
    return Histories(
        _interactions(liked, "items", liked["times"].combine_chunks().flatten().to_numpy()),
        _interactions(turned_down, "disliked", None),
    )


def _of_users_with(table: pa.Table, name: str) -> pa.Table:
    return table.filter(pc.greater(pc.list_value_length(table[name]), 0))


def _interactions(table: pa.Table, name: str, times: NDArray[np.int64] | None) -> Interactions:
    lists = table[name].combine_chunks()
    items = lists.flatten().to_numpy().astype(np.int32)
    return Interactions(
        user_ids=table["user_id"].to_pylist(),
        offsets=(lists.offsets.to_numpy() - lists.offsets[0].as_py()).astype(np.int64),
        items=items,
        timestamps=np.zeros(len(items), np.int64) if times is None else times,
    )
