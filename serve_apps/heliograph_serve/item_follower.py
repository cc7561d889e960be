"""Follows the changes of items that the event store has: whenever it is told to, and by itself.

Whoever changes items tells every replica; one that did not hear of it, or was just starting, reads
the store at its health checks, or is asked by somebody who knows more and reads it then.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from sqlalchemy.exc import SQLAlchemyError

from heliograph.config import ServeConfig
from heliograph.event_store.engine import store_url
from heliograph.event_store.item_log import ItemLog
from heliograph.event_store.store import EventStore
from heliograph.item_changes import Changes
from heliograph.workspace import InputError
from heliograph_serve.lookout import Lookout

PAUSE_S = 2.0
"""Who is asked with news that it cannot read tries it again after this time."""


class Edition(NamedTuple):
    """What item numbers mean: those of a bundle, with the changes up to one."""

    bundle: str
    change: int


class Amendable(Protocol):
    """What follows the changes."""

    changes: Changes
    """Those applied."""

    async def amend(self, changes: Changes) -> None:
        """Apply all changes there are."""
        ...


class ItemFollower:
    """Keeps what a replica holds up to date with the changes of items."""

    def __init__(self, log: ItemLog, follower: Amendable) -> None:
        self.log = log
        self._follower = follower
        self._reading = asyncio.Lock()
        self._failed_at = 0.0
        self._leave_alone_until = 0.0
        self._lookout = Lookout(
            self.catch_up, "changes of items cannot be read or applied here: answering without"
        )

    @property
    def change(self) -> int:
        """The newest that is applied."""
        return self._follower.changes.change

    async def catch_up(self, change: int | None = None) -> None:
        """Apply the changes up to one at least, or all.

        Raises:
            SQLAlchemyError, OSError: The store does not answer.
            InputError: What has changed does not fit the bundle.
        """
        asked_at = time.monotonic()
        async with self._reading:
            if change is None or self.change < change:
                if self._failed_at > asked_at:  # else each in turn waits for a store that hangs
                    raise TimeoutError("the changes of items could not be read just now")
                await self._read()
        self._lookout.succeeded()

    async def _read(self) -> None:
        try:
            states = await self.log.after(self.change)
        except Exception:  # whatever it was is raised; who waits for the same need not try it again
            self._failed_at = time.monotonic()
            raise
        if states:
            await self._follower.amend(self._follower.changes.followed_by(states))

    async def lags_behind(self, edition: Edition) -> bool:
        """Catch up with whoever asks; returns whether that was needed and did not work."""
        if self.change >= edition.change:
            return False
        if time.monotonic() >= self._leave_alone_until:
            try:
                await self.catch_up(edition.change)
            except (SQLAlchemyError, OSError, InputError) as error:
                self._leave_alone_until = time.monotonic() + PAUSE_S
                self._lookout.failed(error)
        return self.change < edition.change

    async def look(self) -> None:
        """Begin to look for changes; the first time, wait until they are applied."""
        await self._lookout.look()


def log_of(serve: ServeConfig, bundles: Path) -> ItemLog:
    """Return the changes of items that are kept where the events are."""
    return ItemLog(EventStore(store_url(serve, bundles)))
