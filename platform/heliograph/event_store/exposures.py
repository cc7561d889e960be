"""What the users of an experiment were answered, and what they did then.

Beside events in the same database, so that both are erased in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, select

from heliograph.event_store.queries import erased_until
from heliograph.event_store.schema import events, exposures
from heliograph.event_store.store import EventStore
from heliograph.experiments import Arm

USERS_A_READ = 500
_COLUMNS = tuple(column.name for column in exposures.c)


@dataclass(frozen=True, slots=True)
class Exposure:
    """One answer to a user of an experiment."""

    exposure_id: str
    """Unique, so that what is written twice is there once."""

    request_id: str
    """As in the request log; the caller may have chosen it."""

    time_us: int
    """Microseconds since 1970."""

    experiment: str
    user_id: str
    """Pseudonym or identifier."""

    arm: Arm
    propensity: float
    """Probability of the arm."""

    bundle: str
    tier: str
    item_ids: tuple[str, ...]
    """The item of rank 1 first."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An exposure, as far as a report needs it."""

    time_us: int
    arm: Arm
    propensity: float
    tier: str
    item_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deed:
    """An event, as far as a report needs it."""

    item_id: str
    time_us: int
    value: float | None


@dataclass(slots=True)
class Subject:
    """A user of an experiment."""

    seen: list[Seen]
    """In the order of time, one or more."""

    deeds: list[Deed]


_USERS = (
    select(exposures.c.user_id)
    .where(
        exposures.c.experiment == bindparam("experiment"),
        exposures.c.user_id > bindparam("after"),
    )
    .distinct()
    .order_by(exposures.c.user_id)
    .limit(USERS_A_READ)
)
_SEEN = (
    select(
        exposures.c.user_id,
        exposures.c.time_us,
        exposures.c.arm,
        exposures.c.propensity,
        exposures.c.tier,
        exposures.c.item_ids,
    )
    .where(
        exposures.c.experiment == bindparam("experiment"),
        exposures.c.user_id.in_(bindparam("users", expanding=True)),
    )
    .order_by(exposures.c.time_us)
)
_FORGET = delete(exposures).where(
    exposures.c.experiment == bindparam("experiment"),
    exposures.c.user_id.in_(bindparam("users", expanding=True)),
)
_DEEDS = select(events.c.user_id, events.c.item_id, events.c.time_us, events.c.value).where(
    events.c.user_id.in_(bindparam("users", expanding=True)),
    events.c.type.in_(bindparam("types", expanding=True)),
)


async def keep_exposures(store: EventStore, batch: Sequence[Exposure]) -> int:
    """Keep exposures in one transaction, but for those of users who have been erased since.

    Returns:
        How many are there now.
    """

    async def work() -> int:
        async with store.appending() as connection:
            until = await erased_until(connection, {one.user_id for one in batch})
            kept = [_row(one) for one in batch if one.time_us > until.get(one.user_id, -1)]
            if kept:
                insert = store.insert(exposures).on_conflict_do_nothing()
                await connection.execute(insert, kept)
            return len(kept)

    return await store.again(work)


async def subjects(
    store: EventStore, experiment: str, types: Sequence[str]
) -> AsyncIterator[list[Subject]]:
    """Yield the users of an experiment, some at a time, with their events of some types."""
    after = ""
    while users := await _users(store, experiment, after):
        yield await _told(store, experiment, users, types)
        after = users[-1]


async def forget_exposures(store: EventStore, experiment: str) -> int:
    """Delete the exposures of an experiment; returns how many there were.

    Some users at a time: those who write meanwhile wait for one such part, not for all.
    """
    forgotten = 0
    while users := await _users(store, experiment, after=""):
        forgotten += await _forget(store, {"experiment": experiment, "users": users})
    return forgotten


async def _forget(store: EventStore, parameters: dict[str, Any]) -> int:
    async def work() -> int:
        async with store.appending() as connection:
            return (await connection.execute(_FORGET, parameters)).rowcount

    return await store.again(work)


async def _users(store: EventStore, experiment: str, after: str) -> list[str]:
    rows = await store.read(_USERS, {"experiment": experiment, "after": after})
    return [user for (user,) in rows]


async def _told(
    store: EventStore, experiment: str, users: list[str], types: Sequence[str]
) -> list[Subject]:
    found = {user: Subject([], []) for user in users}
    for user, time_us, arm, propensity, tier, item_ids in await store.read(
        _SEEN, {"experiment": experiment, "users": users}
    ):
        found[user].seen.append(Seen(time_us, arm, propensity, tier, tuple(json.loads(item_ids))))
    for user, item_id, time_us, value in await store.read(
        _DEEDS, {"users": users, "types": list(types)}
    ):
        found[user].deeds.append(Deed(item_id, time_us, value))
    return [one for one in found.values() if one.seen]  # whoever was erased meanwhile is left out


def _row(exposure: Exposure) -> dict[str, Any]:
    fields = {name: getattr(exposure, name) for name in _COLUMNS}
    return fields | {"item_ids": json.dumps(exposure.item_ids)}
