"""Which replica answers whom, where a replica remembers what it has computed for a user.

Users are spread over lanes by the beginning of their history, and Serve's router sends a lane to
one replica for as long as there are the same replicas (consistent hashing, Karger et al. 1997). The
ingress does not know that ring; it learns from each answer which replica a lane leads to, so that
queries of one replica travel together, whatever lanes they are of.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from heliograph.interactions import History
from heliograph_serve.crew import Answers
from heliograph_serve.item_follower import Edition

Query = TypeVar("Query")
Answer = TypeVar("Answer")

LANES = 64
"""More than there will be replicas of one ranking model, so that each gets its share."""

BEGINNING = 8
"""Items of a history that say whose it is: they stay while new ones come behind."""

UNKNOWN = ""
"""Stands for the replica of a lane that nobody has asked yet."""

Call = Callable[[Edition, Sequence[Query]], Awaitable[Answers[Answer]]]
"""A method of a deployment; takes what the numbers mean, and a batch."""


@dataclass
class PromptTokens:
    """Tokens of the histories that the item LM was asked about."""

    all: int = 0
    cached: int = 0
    """Those that the replica still knew from an earlier request."""

    def add(self, prompt: int, cached: int) -> None:
        """Count one history."""
        self.all += prompt
        self.cached += cached


def lane_of(history: History) -> int:
    """Return the lane of whoever has a history."""
    return zlib.crc32(history[:BEGINNING].tobytes()) % LANES


class Lanes(Generic[Query, Answer]):
    """Calls a method of a deployment, a batch for each of its replicas."""

    def __init__(
        self,
        calls: Sequence[Call[Query, Answer]],
        lane: Callable[[Query], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the call of each lane, and what tells a query's lane."""
        self._calls = calls
        self._lane = lane
        self._clock = clock
        self._replicas = [UNKNOWN] * len(calls)
        self._learnt_at = [0.0] * len(calls)

    def queue_of(self, query: Query) -> str:
        """Return the replica that will answer a query, as far as is known."""
        return self._replicas[self._lane(query)]

    async def ask(self, edition: Edition, batch: Sequence[Query]) -> Sequence[Answer]:
        """Return the answers to a batch.

        The lane of which was heard longest ago decides where the batch goes: where replicas come
        and go, no lane is believed for long.
        """
        lane = min({self._lane(query) for query in batch}, key=self._learnt_at.__getitem__)
        found = await self._calls[lane](edition, batch)
        self._replicas[lane] = found.replica
        self._learnt_at[lane] = self._clock()
        return found.answers
