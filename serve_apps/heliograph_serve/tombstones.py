"""Who has been erased, as an ingress replica knows it also while the event store does not answer.

A bundle may hold histories of users who have been erased since it was built. Whoever erases tells
every replica, and the store says it of each user that it is asked about; a replica that did not
hear of it, or was just starting, reads the store at its health checks.
"""

from __future__ import annotations

import asyncio

from heliograph.event_store.store import EventStore
from heliograph.feedback_files import user_digest
from heliograph_serve.lookout import Lookout

DIGESTS_A_READ = 2000
"""Reading so many from SQLite keeps requests waiting for some milliseconds."""


class Tombstones:
    """Digests of erased users: some 120 bytes each, so 12 MB for a hundred thousand."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._digests: set[str] = set()
        self._are_read = False
        self._lookout = Lookout(self.catch_up, "who has been erased cannot be read")

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests

    def add(self, digest: str) -> None:
        """Take in that a user has been erased."""
        self._digests.add(digest)

    def hide(self, user: str) -> bool:
        """Tell whether nothing that a bundle knows of a user may be used without the store.

        That is so of everybody until it is known who has been erased.
        """
        return not self._are_read or bool(self._digests) and user_digest(user) in self._digests

    async def catch_up(self) -> None:
        """Read who has been erased, if there are more than are known here: none ever goes.

        Raises:
            SQLAlchemyError, OSError, InputError: The store does not answer.
        """
        if self._are_read and await self._store.count_erased() <= len(self._digests):
            return
        some = await self._store.erased("", DIGESTS_A_READ)
        self._digests.update(some)
        while len(some) == DIGESTS_A_READ:
            await asyncio.sleep(0)  # SQLite is read in this thread: requests get their turn
            some = await self._store.erased(some[-1], DIGESTS_A_READ)
            self._digests.update(some)
        self._are_read = True

    async def look(self) -> None:
        """Begin to catch up; the first time, wait for it."""
        await self._lookout.look()
