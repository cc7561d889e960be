"""Brings a database to the schema of this version, safely also when many replicas start at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from heliograph.workspace import InputError

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_KEY = 0x68656C696F  # of PostgreSQL's advisory lock: "helio"


async def migrate(writing: AsyncEngine) -> None:
    """Apply the migrations that are missing, all or none.

    One transaction holds a lock from its first statement on: SQLite's write lock, or an advisory
    lock of PostgreSQL. Whoever comes second finds nothing left to do.

    Raises:
        InputError: A newer heliograph has migrated the database further.
    """
    async with writing.begin() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(select(func.pg_advisory_xact_lock(LOCK_KEY)))
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise InputError(
            f"the event store cannot be migrated: {error}; if a newer heliograph wrote it, "
            "use that version"
        ) from error
