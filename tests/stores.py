"""Event stores for tests, and events to put into them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from heliograph.event_store.event import Event, Occurrence
from heliograph.event_store.exposures import Exposure
from heliograph.event_store.store import EventStore
from heliograph.experiments import Arm


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[EventStore]:
    """Open a store, and close it when the block ends."""
    store = EventStore(url)
    try:
        yield store
    finally:
        await store.close()


def happened(*events: Event) -> list[Occurrence]:
    """Return events as a look-up tells them."""
    return [Occurrence(event.item_id, event.time_us, event.type) for event in events]


def event(number: int, user: str = "ann", item: str | None = None, kind: str = "view") -> Event:
    """Return an event whose identifier and time follow from its number."""
    return Event(f"e{number}", user, item or f"i{number}", 1_000_000 * number, kind, None)


def exposure(number: int, user: str = "ann", arm: Arm = "control", *items: str) -> Exposure:
    """Return an exposure whose identifier and time follow from its number, of an even division."""
    return Exposure(
        exposure_id=f"x{number}",
        request_id=f"r{number}",
        time_us=1_000_000 * number,
        experiment="larger-model",
        user_id=user,
        arm=arm,
        propensity=0.5,
        bundle=f"shop-{arm}",
        tier="generative",
        item_ids=items or ("i1", "i2"),
    )
