"""What is known of users, asked of SQLite itself.

Each request for recommendations looks a user up in the event loop's thread. SQLAlchemy prepares a
statement for three times as long as SQLite takes to answer it, so it is written once, and the
driver's connection, lent from SQLAlchemy's pool, runs it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from heliograph.event_store.queries import HEARD_BY_JSON


class LocalLookUp:
    """Runs `HEARD` on a SQLite file."""

    def __init__(self, engine: Engine) -> None:
        compiled = HEARD_BY_JSON.compile(engine)
        self._engine = engine
        self._statement = str(compiled)
        self._names = list(compiled.positiontup or ())
        self._constants = dict(compiled.params)

    def rows(self, users: Sequence[str], digests: Sequence[str]) -> list[Any]:
        """Return the rows of `HEARD`.

        Raises:
            OperationalError: The file cannot be read, or stays locked.
        """
        values = self._constants | {"users": json.dumps(users), "digests": json.dumps(digests)}
        lent = self._engine.raw_connection()
        try:
            driver: sqlite3.Connection = lent.driver_connection  # type: ignore[assignment]
            found = driver.execute(self._statement, [values[name] for name in self._names])
            return found.fetchall()
        except sqlite3.Error as error:
            raise OperationalError(self._statement, values, error) from error
        finally:
            lent.close()
