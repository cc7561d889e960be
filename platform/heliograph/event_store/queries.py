"""What is asked of the tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    String,
    bindparam,
    func,
    literal,
    literal_column,
    null,
    select,
    text,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from heliograph.event_store.schema import erasures, events
from heliograph.feedback_files import user_digest

RECENT_EVENTS = 1000
"""Newest events of a user that a look-up returns; older ones are for the next build."""

_IDS_IN_A_STATEMENT = 1000  # databases bound the parameters of a statement

ROWS = select(
    events.c.position,
    events.c.event_id,
    events.c.user_id,
    events.c.item_id,
    events.c.time_us,
    events.c.type,
    events.c.value,
)
"""Position and fields of events."""


_TOLD = (events.c.position, events.c.user_id, events.c.item_id, events.c.time_us, events.c.type)
_NEWEST_FIRST = (events.c.time_us.desc(), events.c.position.desc())


def _heard_of_many(users: Any, digests: Any) -> Select[*tuple[Any, ...]]:
    recency = func.row_number().over(partition_by=events.c.user_id, order_by=_NEWEST_FIRST)
    of_users = events.c.user_id.in_(users)
    newest = select(*_TOLD, recency.label("recency")).where(of_users).subquery()
    kept = select(*(newest.c[column.name] for column in _TOLD))
    return _told_with_erasures(
        kept.where(newest.c.recency <= RECENT_EVENTS), erasures.c.user_digest.in_(digests)
    )


def _heard_of_one(user: Any, digest: Any) -> Select[*tuple[Any, ...]]:
    newest = select(*_TOLD).where(events.c.user_id == user).order_by(*_NEWEST_FIRST)
    kept = select(newest.limit(literal_column(str(RECENT_EVENTS))).subquery())
    return _told_with_erasures(kept, erasures.c.user_digest == digest)


def _told_with_erasures(
    kept: Select[*tuple[Any, ...]], of_users: ColumnElement[bool]
) -> Select[*tuple[Any, ...]]:
    erased = select(
        null().cast(BigInteger),
        erasures.c.user_digest,
        literal("", String),
        erasures.c.erased_us,
        literal("", String),
    )
    both = union_all(kept, erased.where(of_users)).subquery()
    return select(both).order_by(both.c.position.is_(None).desc(), both.c.time_us, both.c.position)


HEARD = _heard_of_many(bindparam("users", expanding=True), bindparam("digests", expanding=True))
"""Position, user, item, time and type of the newest events of each of the `users`, oldest first.
Before them, without a position, the erasures among `digests`: the digest stands for the user, the
time is until when events are erased."""

HEARD_OF_ONE = _heard_of_one(bindparam("user"), bindparam("digest"))
"""The same of one `user` with a `digest`."""

# Not max(position): an erasure may have taken the last events away.
SQLITE_LAST_POSITION = text("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
POSTGRESQL_LAST_POSITION = text(
    "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM events_position_seq"
)


async def erased_until(connection: AsyncConnection, user_ids: Iterable[str]) -> dict[str, int]:
    """Return, for those of the users who have been erased, until when."""
    user_of = {user_digest(user): user for user in user_ids}
    digests = list(user_of)
    until: dict[str, int] = {}
    for start in range(0, len(digests), _IDS_IN_A_STATEMENT):
        some = digests[start : start + _IDS_IN_A_STATEMENT]
        rows = await connection.execute(select(erasures).where(erasures.c.user_digest.in_(some)))
        until |= {user_of[digest]: erased_us for digest, erased_us in rows}
    return until
