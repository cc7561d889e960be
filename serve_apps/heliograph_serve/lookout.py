"""Reads the event store at a replica's health checks, for what nobody may have told it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

FIRST_LOOK_S = 8.0
"""A replica that cannot read the store in this time starts without: it could not answer at all
otherwise."""

logger = logging.getLogger("ray.serve")


class Lookout:
    """Reads once at a time, and says once that it cannot, until it can again."""

    def __init__(self, read: Callable[[], Awaitable[None]], trouble: str) -> None:
        """Take what reads, and what is to be logged where that raises."""
        self._read = read
        self._trouble = trouble
        self._looking: asyncio.Task[None] | None = None
        self._is_failing = False

    async def look(self) -> None:
        """Begin to read; the first time, wait until it is done."""
        is_first = self._looking is None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        if is_first:
            await asyncio.wait([self._looking], timeout=FIRST_LOOK_S)

    async def _look(self) -> None:
        try:
            await self._read()
        except Exception as error:  # what is there goes on; the next health check tries again
            self.failed(error)
        else:
            self.succeeded()

    def failed(self, error: Exception) -> None:
        """Log what keeps the store from being read, unless that has been said."""
        if not self._is_failing:
            self._is_failing = True
            logger.warning(self._trouble, exc_info=error)

    def succeeded(self) -> None:
        """Take note that the store can be read."""
        self._is_failing = False
