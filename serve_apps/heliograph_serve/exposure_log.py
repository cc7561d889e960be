"""The exposures of an ingress replica on their way into the event store.

An answer leaves its exposure here and goes on; what has gathered is written in one transaction. A
store that is down costs no answer anything: exposures wait for it, and those for which there is no
room are counted as lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.exc import DataError, IntegrityError

from heliograph.event_store.exposures import Exposure

GATHER_S = 0.2
"""Time from an exposure until it is written: so much is lost with a replica that is killed."""

RETRY_S = 1.0
WRITE_TIMEOUT_S = 10.0
MOST_WAITING = 1_000_000
"""Items in the exposures that wait: an identifier is shared with the catalogue, so 8 MB."""

MOST_AT_ONCE = 20_000
"""Items in the exposures of one transaction."""

logger = logging.getLogger("ray.serve")


class ExposureLog:
    """Takes exposures at once and writes them later."""

    def __init__(
        self,
        keep: Callable[[Sequence[Exposure]], Awaitable[int]],
        gather_s: float = GATHER_S,
        retry_s: float = RETRY_S,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """Write through `keep`, which returns how many were kept; the others are of erased users.

        An exposure that `keep` gets twice must be there once: what failed is tried again.
        """
        self._keep = keep
        self._gather_s = gather_s
        self._retry_s = retry_s
        self._most_waiting = most_waiting
        self._queue: deque[Exposure] = deque()
        self._size = 0
        self._writing: asyncio.Task[None] | None = None
        self._is_down = False
        self.kept = 0
        self.erased = 0
        self.lost = 0

    @property
    def waiting(self) -> int:
        """How many are not written yet."""
        return len(self._queue)

    def note(self, exposure: Exposure) -> None:
        """Take an exposure, or count it as lost where there is no room."""
        size = _size(exposure)
        if self._size + size > self._most_waiting:
            self.lost += 1
            return
        self._queue.append(exposure)
        self._size += size
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        while self._queue:
            await asyncio.sleep(self._retry_s if self._is_down else self._gather_s)
            batch = self._next_batch()
            try:
                kept = await asyncio.wait_for(self._keep(batch), WRITE_TIMEOUT_S)
            except (DataError, IntegrityError) as error:  # again they would fail, and keep others
                logger.error("%d exposures cannot be written: %s", len(batch), error)
                self.lost += len(batch)
            except Exception as error:  # whatever it is, answers go on and the store may come back
                self._wait_for_store(error)
                continue
            else:
                self._is_down = False
                self.kept += kept
                self.erased += len(batch) - kept
            for _ in batch:
                self._size -= _size(self._queue.popleft())

    def _next_batch(self) -> list[Exposure]:
        batch: list[Exposure] = []
        size = 0
        for exposure in self._queue:
            if batch and size + _size(exposure) > MOST_AT_ONCE:
                break
            batch.append(exposure)
            size += _size(exposure)
        return batch

    def _wait_for_store(self, error: Exception) -> None:
        if not self._is_down:
            logger.warning("exposures wait for the event store: %s", error)
        self._is_down = True


def _size(exposure: Exposure) -> int:
    return 1 + len(exposure.item_ids)
