"""The changes of items, in the database of the events.

Writers come one after the other, so numbers are given in the order in which they can be read: who
has read up to a change has missed none before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from heliograph.event_store.schema import items
from heliograph.event_store.store import EventStore
from heliograph.item_changes import ItemState

NEWEST = select(func.coalesce(func.max(items.c.change), 0))
LAST_PLACE = select(func.coalesce(func.max(items.c.place), -1))
_IDS_IN_A_STATEMENT = 500


@dataclass(frozen=True)
class ItemUpdate:
    """What is to become of one item."""

    item_id: str
    available: bool
    columns: str | None = None
    """None: they stay as they are; the rest counts only beside them."""

    text: str | None = None
    encoder: str | None = None
    vector: bytes | None = None


@dataclass(frozen=True)
class Written:
    """What a change has done."""

    change: int
    """The newest there is; a new one only if something is different now."""

    before: dict[str, ItemState]
    """Earlier states of the items, of those that had one."""


class ItemLog:
    """Reads and writes the changes of items."""

    def __init__(self, store: EventStore) -> None:
        self.store = store

    async def after(self, change: int) -> list[ItemState]:
        """Return the states that items were brought into by later changes, in their order."""
        order = items.c.change, items.c.item_id
        rows = await self.store.read(select(items).where(items.c.change > change).order_by(*order))
        return [_state(row) for row in rows]

    async def write(self, updates: Sequence[ItemUpdate]) -> Written:
        """Make one change of several items, each named once; on the disk when it returns."""

        async def work() -> Written:
            async with self.store.engines.writing.begin() as connection:
                if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
                    await connection.execute(text("LOCK TABLE items IN EXCLUSIVE MODE"))
                return await _write(connection, updates)

        return await self.store.again(work)


async def _write(connection: AsyncConnection, updates: Sequence[ItemUpdate]) -> Written:
    before = await _states(connection, [update.item_id for update in updates])
    newest = await connection.scalar(NEWEST) or 0
    last_place = await connection.scalar(LAST_PLACE)
    place = 0 if last_place is None else last_place + 1
    changed = []
    for update in updates:
        known = before.get(update.item_id)
        state = _updated(update, known, newest + 1)
        if state.columns is not None and state.place is None:
            state, place = replace(state, place=place), place + 1
        if known is None or replace(state, change=known.change) != known:
            changed.append(vars(state))
    if not changed:
        return Written(newest, before)
    inserts = sqlite if connection.dialect.name == "sqlite" else postgresql
    insert = inserts.insert(items)
    others = {one.name: insert.excluded[one.name] for one in items.columns if not one.primary_key}
    await connection.execute(
        insert.on_conflict_do_update(index_elements=["item_id"], set_=others), changed
    )
    return Written(newest + 1, before)


def _updated(update: ItemUpdate, known: ItemState | None, change: int) -> ItemState:
    known = known or ItemState(update.item_id, update.available, change)
    if update.columns is None:
        return replace(known, available=update.available, change=change)
    return ItemState(
        update.item_id,
        update.available,
        change,
        known.place,
        update.columns,
        update.text,
        update.encoder,
        update.vector,
    )


async def _states(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, ItemState]:
    found: dict[str, ItemState] = {}
    for start in range(0, len(ids), _IDS_IN_A_STATEMENT):
        some = ids[start : start + _IDS_IN_A_STATEMENT]
        rows = await connection.execute(select(items).where(items.c.item_id.in_(some)))
        found |= {row.item_id: _state(row) for row in rows}
    return found


def _state(row: Row[*tuple[Any, ...]]) -> ItemState:
    return ItemState(**row._mapping)
