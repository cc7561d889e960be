"""What each user has consumed, as the online graph looks it up.

The histories come with the bundle and are read-only; they are numbers, like everything inside.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heliograph.events import History, Interactions

HISTORIES_FILE = "histories.parquet"


class Histories:
    """Finds a user's history by identifier."""

    def __init__(self, interactions: Interactions) -> None:
        self.interactions = interactions
        self.user_of = {user_id: user for user, user_id in enumerate(interactions.user_ids)}

    def __len__(self) -> int:
        return len(self.user_of)

    def find(self, user_id: str) -> History | None:
        """Return the items of a user, oldest first, or None if the user is unknown."""
        user = self.user_of.get(user_id)
        return None if user is None else self.interactions.history(user)


def write_histories(interactions: Interactions, path: Path) -> None:
    """Write one row a user: `user_id` and the list `items` of item numbers, oldest first."""
    items = pa.ListArray.from_arrays(
        pa.array(interactions.offsets, pa.int32()), pa.array(interactions.items, pa.int32())
    )
    table = pa.table({"user_id": pa.array(interactions.user_ids, pa.string()), "items": items})
    pq.write_table(table, path)


def read_histories(path: Path) -> Histories:
    """Read what `write_histories` wrote."""
    table = pq.read_table(path)
    items = table["items"].combine_chunks()
    flat = items.flatten().to_numpy().astype(np.int32)
    interactions = Interactions(
        user_ids=table["user_id"].to_pylist(),
        offsets=items.offsets.to_numpy().astype(np.int64),
        items=flat,
        timestamps=np.zeros(len(flat), np.int64),
    )
    return Histories(interactions)
