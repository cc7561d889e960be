"""The users who ask the graph in a trial: real ones, who come again and again.

A visit with the whole history is judged by the validation item that follows it. Other visits are
earlier ones, with a history that ends sooner, so that no two requests are the same: what was
remembered of one visit helps another as much as it does online.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heliograph.interactions import History, Interactions
from heliograph.load import http_request

VISITS = 12
"""Of each user; after the earliest the last one comes again."""

WARM_UP = 1
"""The visit, counted backwards from the last, that goes before what is measured."""


@dataclass(frozen=True)
class Visitors:
    """Who asks."""

    targets: NDArray[np.int32]
    """(users,) the item that follows the whole history of each."""

    def warm_up(self, order: Sequence[int], n: int) -> Iterator[bytes]:
        """Yield a request of every user for n items, as of the visit before the last."""
        for user in order:
            yield _request(user, WARM_UP, n)

    def measured(self, order: Sequence[int], n: int, seconds: float) -> Iterator[bytes]:
        """Yield a request of every user with the whole history, then others until time is over."""
        end = time.perf_counter() + seconds
        for user in order:
            yield _request(user, 0, n)
        while True:
            for visit in (*range(WARM_UP + 1, VISITS), 0):
                for user in order:
                    if time.perf_counter() > end:
                        return
                    yield _request(user, visit, n)


def visits_of(histories: Sequence[History]) -> Interactions:
    """Return a user for each visit, with what was known of the user by then."""
    cut = [
        (name_of(user, visit), history[: max(len(history) - visit, 1)])
        for user, history in enumerate(histories)
        for visit in range(VISITS)
    ]
    lengths = [len(history) for _, history in cut]
    return Interactions(
        user_ids=[name for name, _ in cut],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.concatenate([history for _, history in cut]).astype(np.int32),
        timestamps=np.concatenate([np.arange(length) for length in lengths]).astype(np.int64),
    )


def name_of(user: int, visit: int) -> str:
    """Return the identifier of a user at a visit, counted backwards from the last."""
    return f"user-{user}-visit-{visit}"


def _request(user: int, visit: int, n: int) -> bytes:
    return http_request("POST", "/v1/recommendations", {"user_id": name_of(user, visit), "n": n})
