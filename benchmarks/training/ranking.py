"""NDCG@10 of held-out items: the one function that judges every system.

Imported in environments that are not ours: numpy and the standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from task import Task

K = 10
USERS_AT_ONCE = 256
"""Bounds the memory of the scores; validation is not timed."""

Score = Callable[[Sequence[NDArray[np.int32]]], NDArray[np.float32]]
"""Histories -> (histories, items) scores, higher is better; -inf is never ranked."""


def validation_ndcg(task: Task, score: Score) -> float:
    """Return the mean NDCG@10 of each validated user's item among all that they have not seen."""
    histories = task.histories()
    total = 0.0
    for start in range(0, len(task.users), USERS_AT_ONCE):
        rows = slice(start, start + USERS_AT_ONCE)
        seen = [histories[user] for user in task.users[rows]]
        total += float(ndcg(score(seen), seen, task.targets[rows]).sum())
    return total / len(task.users)


def ndcg(
    scores: NDArray[np.float32], seen: Sequence[NDArray[np.int32]], targets: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return (users,) NDCG@10 of one target a user: 1 / log2(1 + rank), 0 from rank 11 on.

    Equal scores rank in order of item number. A target that was seen or has no score is not found.

    Args:
        scores: (users, items).
        seen: Each user's items, which are left out.
        targets: (users,) item numbers.
    """
    scores = scores.copy()
    for row, items in enumerate(seen):
        scores[row, items] = -np.inf
    own = scores[np.arange(len(scores)), targets][:, None]
    before = np.arange(scores.shape[1]) < targets[:, None]
    ranks = 1 + ((scores > own) | ((scores == own) & before)).sum(axis=1)
    found = np.isfinite(own[:, 0]) & (ranks <= K)
    return np.where(found, 1 / np.log2(1.0 + ranks), 0.0)
