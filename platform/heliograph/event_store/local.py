"""What is known of a user, asked of SQLite itself.

Each request for recommendations looks its user up in the event loop's thread. SQLAlchemy prepares a
statement, and its pool a connection, for several times as long as SQLite takes to answer. So the
statement is written once, and run by the driver on a connection that is borrowed once.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.exc import OperationalError

from heliograph.event_store.queries import HEARD_OF_ONE


class LocalLookUp:
    """Runs `HEARD_OF_ONE` on a SQLite file, in one thread."""

    def __init__(self, engine: Engine) -> None:
        compiled = HEARD_OF_ONE.compile(engine)
        self._engine = engine
        self._statement = str(compiled)
        self._names = list(compiled.positiontup or ())
        self._constants = dict(compiled.params)
        self._borrowed: PoolProxiedConnection | None = None

    def rows(self, user: str, digest: str) -> list[Any]:
        """Return the rows of `HEARD_OF_ONE`.

        Raises:
            OperationalError: The file cannot be read, or stays locked.
        """
        values = self._constants | {"user": user, "digest": digest}
        if self._borrowed is None:
            self._borrowed = self._engine.raw_connection()
        driver: sqlite3.Connection = self._borrowed.driver_connection  # type: ignore[assignment]
        try:
            found = driver.execute(self._statement, [values[name] for name in self._names])
            return found.fetchall()
        except sqlite3.Error as error:
            self.close()  # the next look-up begins anew, whatever was wrong
            raise OperationalError(self._statement, values, error) from error

    def close(self) -> None:
        """Close the connection; another look-up makes another."""
        if self._borrowed is not None:
            self._borrowed.invalidate()
            self._borrowed = None
