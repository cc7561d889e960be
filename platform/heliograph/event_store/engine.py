"""Connections to the database: SQLite in a file, or PostgreSQL, by URL alone."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from heliograph.config import ServeConfig
from heliograph.workspace import InputError

DEFAULT_FILE = "events.sqlite"
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
BUSY_TIMEOUT_S = 30
"""A writer of another process may hold the SQLite file for so long before waiting is an error."""

CONNECT_TIMEOUT_S = 5
"""A PostgreSQL server that is well takes a connection in milliseconds, from far away in one second;
one that hangs, or a firewall that drops packets, would keep us waiting for minutes."""

COMMAND_TIMEOUT_S = 10
"""Of one statement, its wait for locks included. The longest of ours, a thousand events in or the
100,000 rows of an exported part out, take a second or two."""

POOL_SIZE = 4
"""Connections for reading and as many for writing, a replica."""


@dataclass(frozen=True)
class Engines:
    """Two ways into one database."""

    reading: AsyncEngine | Engine
    """Every statement by itself: a look-up is one round trip. Of SQLite in the caller's thread: a
    read that no writer blocks takes less time than to ask another thread for it."""

    writing: AsyncEngine
    """Transactions."""

    async def close(self) -> None:
        """Close every connection."""
        if isinstance(self.reading, Engine):
            self.reading.dispose()
        else:
            await self.reading.dispose()
        await self.writing.dispose()


def store_url(serve: ServeConfig, bundles: Path) -> str:
    """Return where events are kept: as the setting says, else in a file beside the bundles.

    Raises:
        InputError: The setting names an environment variable that is not set.
    """
    if serve.store is None:
        return f"sqlite:///{bundles.resolve() / DEFAULT_FILE}"

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise InputError(f"serve.store needs the environment variable {match[1]}; set it")
        return quote(os.environ[match[1]], safe="")

    return re.sub(r"\$\{(\w+)\}", value, serve.store)


def require_usable(url: str) -> None:
    """Raise `InputError` if the file of a SQLite store cannot be written here."""
    parsed = make_url(url)
    folder = Path(parsed.database or "").parent
    if parsed.drivername == "sqlite" and not os.access(folder, os.W_OK):
        raise InputError(
            f"events cannot be kept: the folder {folder} does not exist or cannot be written to; "
            "make it, or set serve.store to another place"
        )


def open_engines(url: str) -> Engines:
    """Prepare connections; none is made before the first statement."""
    parsed = make_url(url)
    is_postgresql = parsed.drivername == "postgresql"
    # past either a call ends with a TimeoutError, which is an OSError
    patience = {"timeout": CONNECT_TIMEOUT_S, "command_timeout": COMMAND_TIMEOUT_S}
    connect_args = patience if is_postgresql else {}
    writing = create_async_engine(
        parsed.set(drivername=DRIVERS[parsed.drivername]),
        pool_size=POOL_SIZE,
        connect_args=connect_args,
    )
    if is_postgresql:
        reading = create_async_engine(
            writing.url,
            connect_args=connect_args,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=POOL_SIZE,
            pool_reset_on_return=None,
        )
        return Engines(reading, writing)
    event.listen(writing.sync_engine, "connect", _begin_ourselves)
    event.listen(writing.sync_engine, "connect", _make_durable)
    event.listen(writing.sync_engine, "begin", _take_the_lock)
    local = create_engine(
        parsed,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_reset_on_return=None,
    )
    event.listen(local, "connect", _hardly_wait)
    return Engines(local, writing)


def empty_log(local: Engine) -> None:
    """Move what SQLite's log holds into the file: the log still has what the file has forgotten.

    Waits for writers, so not in the thread that they need to end.
    """
    with local.connect() as connection:
        connection.execute(text(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}"))
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        connection.invalidate()  # the next connection does not wait again


def _hardly_wait(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    """Whoever reads in the event loop's thread keeps everybody else waiting."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 20")
    cursor.close()


def _begin_ourselves(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    """Keep Python's sqlite3 from beginning transactions by rules of its own."""
    connection.isolation_level = None


def _make_durable(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    """Readers and one writer at a time; a commit is on the disk when it returns."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
    _turn_to_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten
    cursor.close()


def _turn_to_wal(cursor: DBAPICursor) -> None:
    """Of several that turn a new file to WAL at once, SQLite refuses some without any wait."""
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            await_only(asyncio.sleep(0.02))
        else:
            return


def _take_the_lock(connection: Connection) -> None:
    """Become the writer at once: a reader that turns writer later may be refused."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
