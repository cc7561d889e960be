"""What every system is given: training histories, what validation looks for, and an order.

Imported in environments that are not ours: numpy and the standard library only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TASK_FILE = "task.npz"


@dataclass(frozen=True)
class Task:
    """The training part of a leave-one-out split and its validation items; no test items."""

    offsets: NDArray[np.int64]
    """(users + 1,); user u has the items offsets[u]:offsets[u + 1]."""

    items: NDArray[np.int32]
    """(events,) item numbers, each user's oldest first."""

    users: NDArray[np.int64]
    """(validated,) users who have a validation item."""

    targets: NDArray[np.int32]
    """(validated,) the item that follows the history of each of them."""

    n_items: int

    def histories(self) -> list[NDArray[np.int32]]:
        """Return the items of every user."""
        return np.split(self.items, self.offsets[1:-1])

    def save(self, folder: Path) -> None:
        """Write it to a folder."""
        np.savez(
            folder / TASK_FILE,
            offsets=self.offsets,
            items=self.items,
            users=self.users,
            targets=self.targets,
            n_items=self.n_items,
        )

    @classmethod
    def load(cls, folder: Path) -> Task:
        """Read what `save` wrote."""
        with np.load(folder / TASK_FILE) as arrays:
            return cls(
                arrays["offsets"],
                arrays["items"],
                arrays["users"],
                arrays["targets"],
                int(arrays["n_items"]),
            )


@dataclass(frozen=True)
class Order:
    """What one system is to do, as a JSON file that is its only argument."""

    task: str
    """Folder of the task."""

    work: str
    """Folder that the system may write to."""

    dump: str
    """File that gets a line of JSON for every validation."""

    target: float
    """Validation NDCG@10 at which training ends."""

    limit_s: float
    """Seconds of training after which it ends all the same."""

    check_s: float
    """Seconds of training after which an epoch is interrupted for a validation."""

    threads: int
    max_length: int
    """Items of a history that are read."""

    dropout: float | None
    """None: our own is in the settings beside the task."""

    seed: int

    def save(self, path: Path) -> None:
        """Write the JSON file."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Order:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))
