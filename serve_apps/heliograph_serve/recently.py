"""What is slow to find out and true for a moment: found out once, whoever asks meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Found = TypeVar("Found")


class Recently(Generic[Found]):
    """An answer that serves all who ask while it is looked for, and for a while afterwards."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Found]],
        keep_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take how to find out, and how long the answer holds."""
        self._look = look
        self._keep_s = keep_s
        self._clock = clock
        self._until = 0.0
        self._looking: asyncio.Future[Found] | None = None

    async def get(self) -> Found:
        """Return the answer, or raise what came of looking for it.

        Whoever gives up waiting ends it for nobody else.
        """
        if self._looking is None or (self._looking.done() and self._clock() >= self._until):
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(self._keep)
        return await asyncio.shield(self._looking)

    def _keep(self, looking: asyncio.Future[Found]) -> None:
        self._until = self._clock() + self._keep_s
        if not looking.cancelled():
            looking.exception()  # it is for whoever asks; nobody may be left
