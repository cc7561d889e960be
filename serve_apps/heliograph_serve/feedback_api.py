"""The words of the feedback part of the HTTP API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from heliograph.event_store.event import MAX_BATCH, NewEvent
from heliograph_serve.api import BATCH_SHAPE, EVENT_SHAPE, Body

UNKNOWN_ITEMS_NAMED = 100


class EventBatch(Body):
    """Several events at once."""

    events: list[NewEvent] = Field(min_length=1, max_length=MAX_BATCH)


def _shape(body: Any) -> str:
    return BATCH_SHAPE if isinstance(body, dict) and "events" in body else EVENT_SHAPE


Feedback = Annotated[
    Annotated[NewEvent, Tag(EVENT_SHAPE)] | Annotated[EventBatch, Tag(BATCH_SHAPE)],
    Discriminator(_shape),
]
"""One event, or `{"events": [...]}`."""


class EventsKept(Body):
    """What became of the events of one request; each is on the disk by now."""

    new: int
    repeated: int
    """Known already, by their event_id; nothing changed."""

    erased: int
    """Of users who have been erased since they happened; not kept."""

    event_ids: list[str]
    """Of each event in the order of the request, derived from its content where it had none."""

    unknown_items: list[str]
    """Items that the catalogue lacks, the first hundred. Their events are kept and count once the
    item is there."""


class KeptEvent(Body):
    """One event as it is kept."""

    event_id: str
    item_id: str
    timestamp: str
    """ISO 8601, UTC."""

    type: str
    value: float | None


class Consumed(Body):
    """One item of a history."""

    item_id: str
    title: str
    timestamp: str
    """ISO 8601, UTC."""


class UserEvents(Body):
    """A page of a user's events, in the order in which they arrived, and the history by now."""

    user_id: str
    events: list[KeptEvent]
    next: int | None
    """What to pass as `after` for the next page; null: this is the last one."""

    history: list[Consumed]
    """What recommendations to the user go by, from the served bundle and the store: the newest
    `limit` items, the newest first."""


class Receipt(Body):
    """What was erased of a user, and where."""

    user_id: str
    erased_until: str
    """Events up to this time are not taken any more, wherever they come from; ISO 8601, UTC."""

    store_events: int
    """Deleted from the event store."""

    exposures: int
    """Deleted from the event store: what the user was answered in experiments."""

    exported_events: dict[str, int | None]
    """Folder of exported events -> deleted there; null: the folder cannot be reached from this
    machine, and the next export or build there deletes them."""

    bundle_events: int
    """Of the served bundle, hidden from now on; the next build leaves them out."""

    cached_candidates: int
    """Dropped from the memory of the ingress replicas."""
