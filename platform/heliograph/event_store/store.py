"""The events since the bundle, in a database that several replicas share.

Everything is idempotent: a statement whose connection broke is simply said again, and an event
that comes twice, at once or years apart, on one replica or on two, is one row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Engine, Executable, Row, case, delete, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from heliograph.event_store.engine import empty_log, open_engines
from heliograph.event_store.event import Event, Occurrence
from heliograph.event_store.local import LocalLookUp
from heliograph.event_store.migrating import migrate
from heliograph.event_store.queries import (
    HEARD,
    POSTGRESQL_LAST_POSITION,
    ROWS,
    SQLITE_LAST_POSITION,
    erased_until,
)
from heliograph.event_store.schema import erasures, events, export_folders, exposures
from heliograph.feedback_files import user_digest

Found = TypeVar("Found")


@dataclass(frozen=True)
class Appended:
    """What became of the events of one request."""

    new: int
    repeated: int
    """Were there already, or stand in the request twice."""

    erased: int
    """Of users who have been erased since; not kept."""


@dataclass(frozen=True)
class Erased:
    """What an erasure did."""

    events: int
    exposures: int
    """Deleted, of each."""

    until_us: int
    """Events up to here, in microseconds since 1970, are not taken any more."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the store knows of one user."""

    events: list[Occurrence] = field(default_factory=list)
    """The newest, oldest first."""

    erased_us: int | None = None
    """Until when the user's events are erased, in the bundle as well; None: never."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An event and its place in the order of arrival."""

    position: int
    event: Event


class EventStore:
    """Keeps events. The first use brings the database to this version's schema."""

    def __init__(self, url: str) -> None:
        """Prepare the store at a URL such as `store_url` returns; nothing is connected yet."""
        self.engines = open_engines(url)
        dialect = self.engines.writing.dialect.name
        self.insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
        self._is_sqlite = dialect == "sqlite"
        reading = self.engines.reading
        self._local = LocalLookUp(reading) if isinstance(reading, Engine) else None
        self._is_ready = False
        self._preparing: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Bring the schema up to date, once.

        Whoever asks meanwhile waits for the same attempt: one after the other they would wait for
        a database that hangs as often as there are requests.
        """
        if self._is_ready:
            return
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare())
        await asyncio.shield(self._preparing)

    async def _prepare(self) -> None:
        try:
            await migrate(self.engines.writing)
            self._is_ready = True
        finally:
            self._preparing = None

    async def close(self) -> None:
        """Close every connection."""
        if self._local is not None:
            self._local.close()
        await self.engines.close()

    async def append(self, requests: Sequence[Sequence[Event]]) -> list[Appended]:
        """Keep the events of several requests in one transaction; on the disk when it returns."""
        first: dict[str, tuple[int, Event]] = {}  # of events that come twice, the first counts
        for place, request in enumerate(requests):
            for event in request:
                first.setdefault(event.event_id, (place, event))

        async def work() -> tuple[set[str], set[str]]:
            return await self._insert([event for _, event in first.values()])

        new, erased = await self.again(work)
        counts = [[0, 0] for _ in requests]
        for event_id, (place, _) in first.items():
            counts[place][0] += event_id in new
            counts[place][1] += event_id in erased
        return [
            Appended(added, len(request) - added - gone, gone)
            for request, (added, gone) in zip(requests, counts, strict=True)
        ]

    async def heard(self, user_ids: Sequence[str]) -> list[Heard]:
        """Return what is known of each user, in one indexed read."""
        if self._local is not None:
            await self.ready()
            return [self._heard_here(self._local, user) for user in user_ids]
        digests = {user_digest(user): user for user in user_ids}
        found = {user: Heard() for user in user_ids}
        wanted = {"users": list(found), "digests": list(digests)}
        for position, user, item_id, time_us, kind in await self.read(HEARD, wanted):
            if position is None:
                found[digests[user]] = Heard([], time_us)
            else:
                found[user].events.append(Occurrence(item_id, time_us, kind))
        return [found[user] for user in user_ids]

    def heard_at_once(self, user_id: str) -> Heard | None:
        """Return what is known of a user where that takes microseconds, without leaving the thread.

        None: the database is another process, or is not ready yet; ask `heard`.
        """
        if self._local is None or not self._is_ready:
            return None
        return self._heard_here(self._local, user_id)

    @staticmethod
    def _heard_here(local: LocalLookUp, user_id: str) -> Heard:
        heard = Heard()
        for position, _, item_id, time_us, kind in local.rows(user_id, user_digest(user_id)):
            if position is None:
                heard = Heard([], time_us)
            else:
                heard.events.append(Occurrence(item_id, time_us, kind))
        return heard

    async def page(self, user_id: str, after: int, limit: int) -> list[Stored]:
        """Return a user's events in the order of arrival, from behind a position on."""
        chosen = ROWS.where(events.c.user_id == user_id, events.c.position > after)
        rows = await self.read(chosen.order_by(events.c.position).limit(limit))
        return [_stored(row) for row in rows]

    async def rows(self, after: int, upto: int, limit: int) -> list[Stored]:
        """Return all events behind one position and up to another, in order."""
        chosen = ROWS.where(events.c.position > after, events.c.position <= upto)
        rows = await self.read(chosen.order_by(events.c.position).limit(limit))
        return [_stored(row) for row in rows]

    async def erase(self, user_id: str, until_us: int) -> Erased:
        """Forget a user for good, and take no event from before `until_us` any more."""

        async def work() -> Erased:
            async with self.engines.writing.begin() as connection:
                return await self._erase(connection, user_id, until_us)

        erased = await self.again(work)
        if isinstance(self.engines.reading, Engine):
            await asyncio.to_thread(empty_log, self.engines.reading)
        return erased

    async def _erase(self, connection: AsyncConnection, user_id: str, until_us: int) -> Erased:
        if not self._is_sqlite:  # from here on no append comes between
            await connection.execute(text("LOCK TABLE erasures IN ROW EXCLUSIVE MODE"))
        of_user = events.c.user_id == user_id
        # a client's clock may be ahead of ours: its events must not come back either
        newest = await connection.scalar(select(func.max(events.c.time_us)).where(of_user))
        until_us = max(until_us, newest or 0)
        insert = self.insert(erasures).values(user_digest=user_digest(user_id), erased_us=until_us)
        before, now = erasures.c.erased_us, insert.excluded.erased_us
        until_us = await connection.scalar(
            insert.on_conflict_do_update(
                # what an earlier erasure refuses stays refused
                index_elements=["user_digest"],
                set_={"erased_us": case((before > now, before), else_=now)},
            ).returning(before)
        )
        forgotten = await connection.execute(delete(events).where(of_user))
        unseen = await connection.execute(delete(exposures).where(exposures.c.user_id == user_id))
        return Erased(forgotten.rowcount, unseen.rowcount, until_us)

    async def erasures(self) -> dict[str, int]:
        """Return every erased user's digest, and the time until which the events are erased."""
        rows = await self.read(select(erasures))
        return {row.user_digest: row.erased_us for row in rows}

    async def count_erased(self) -> int:
        """Return how many users have been erased."""
        ((count,),) = await self.read(select(func.count()).select_from(erasures))
        return int(count)

    async def erased(self, after: str, limit: int) -> list[str]:
        """Return digests of erased users, in order, from behind one on; "" is before all."""
        digests = erasures.c.user_digest
        rows = await self.read(
            select(digests).where(digests > after).order_by(digests).limit(limit)
        )
        return [digest for (digest,) in rows]

    async def export_folders(self) -> list[str]:
        """Return the folders that events have been exported to."""
        return [row.folder for row in await self.read(select(export_folders))]

    async def add_export_folder(self, folder: str) -> None:
        """Remember a folder that gets exported events, so that erasures reach it."""
        insert = self.insert(export_folders).values(folder=folder).on_conflict_do_nothing()

        async def work() -> None:
            async with self.engines.writing.begin() as connection:
                await connection.execute(insert)

        await self.again(work)

    async def watermark(self) -> int:
        """Return the last position given; every event up to it is there to be read."""

        async def work() -> int:
            async with self.engines.writing.begin() as connection:
                if self._is_sqlite:  # its writers come one after the other
                    return await connection.scalar(SQLITE_LAST_POSITION) or 0
                # a position is taken before its transaction ends: wait for those under way
                await connection.execute(text("LOCK TABLE events IN SHARE MODE"))
                return await connection.scalar(POSTGRESQL_LAST_POSITION) or 0

        return await self.again(work)

    async def _insert(self, appended: list[Event]) -> tuple[set[str], set[str]]:
        """Insert in one transaction; returns the ids of new events and of those refused."""
        insert = (
            self.insert(events)
            .on_conflict_do_nothing(index_elements=["event_id"])
            .returning(events.c.event_id)
        )
        async with self.appending() as connection:
            until = await erased_until(connection, {event.user_id for event in appended})
            refused = {e.event_id for e in appended if e.time_us <= until.get(e.user_id, -1)}
            rows = [asdict(event) for event in appended if event.event_id not in refused]
            if not rows:
                return set(), refused
            # in one order everywhere: two replicas that insert the same events cannot deadlock
            rows.sort(key=lambda row: row["event_id"])
            new = await connection.scalars(insert, rows)
            return set(new), refused

    @asynccontextmanager
    async def appending(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction that an erasure either comes before or sees all of."""
        async with self.engines.writing.begin() as connection:
            if not self._is_sqlite:
                await connection.execute(text("LOCK TABLE erasures IN SHARE MODE"))
            yield connection

    async def read(
        self, statement: Executable, parameters: Mapping[str, object] | None = None
    ) -> Sequence[Row[*tuple[Any, ...]]]:
        """Return the rows that one statement finds."""

        async def work() -> Sequence[Row[*tuple[Any, ...]]]:
            if isinstance(self.engines.reading, Engine):
                with self.engines.reading.connect() as local:
                    return local.execute(statement, parameters).all()
            async with self.engines.reading.connect() as connection:
                return (await connection.execute(statement, parameters)).all()

        return await self.again(work)

    async def again(self, work: Callable[[], Awaitable[Found]]) -> Found:
        """Do the work; once more if the connection had been lost, as after a restart."""
        await self.ready()
        try:
            return await work()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return await work()


def _stored(row: Row[*tuple[Any, ...]]) -> Stored:
    position, *fields = row
    return Stored(position, Event(*fields))
