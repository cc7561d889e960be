"""Who answers: the replicas of a deployment, as their answers make them known.

A replica has one batch at a time from each ingress replica, or a second one behind it (`stage.py`),
so how many may be away goes by how many replicas there are. Nobody tells the ingress how many that
are; but batches go to whoever has least to do, so each replica answers sooner or later, and says
who it is.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ray import serve

from heliograph_serve.item_follower import Edition

Query = TypeVar("Query")
Answer = TypeVar("Answer")

REMEMBERED_S = 10.0
"""A replica that has not answered for so long is not counted."""


@dataclass(frozen=True)
class Answers(Generic[Answer]):
    """A batch's answers, and whose they are."""

    answers: Sequence[Answer]
    """In the order of the queries."""

    replica: str


def own_name() -> str:
    """Return the name of the replica that this process is."""
    return serve.get_replica_context().replica_tag


class Crew(Generic[Query, Answer]):
    """Calls a method of a deployment and counts who answers."""

    def __init__(
        self,
        call: Callable[[Edition, Sequence[Query]], Awaitable[Answers[Answer]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a method whose arguments are what numbers mean and a batch."""
        self._call = call
        self._clock = clock
        self._heard: dict[str, float] = {}

    async def ask(self, edition: Edition, batch: Sequence[Query]) -> Sequence[Answer]:
        """Return the answers to a batch."""
        found = await self._call(edition, batch)
        self._heard[found.replica] = self._clock()
        return found.answers

    def size(self) -> int:
        """Return how many replicas have answered lately, at least 1."""
        oldest = self._clock() - REMEMBERED_S
        self._heard = {name: heard for name, heard in self._heard.items() if heard >= oldest}
        return max(1, len(self._heard))
