"""One event: as it travels, and as it is kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from heliograph.config import CLOCK_SKEW_US, EventsConfig
from heliograph.identifiers import Identifier, content_id
from heliograph.pseudonyms import pseudonym

MAX_BATCH = 1000
"""Events in one request."""

MAX_TYPE_LENGTH = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it is kept; the user's id is the pseudonym where there are any."""

    event_id: str
    user_id: str
    item_id: str
    time_us: int
    """Microseconds since 1970."""

    type: str
    value: float | None


class Occurrence(NamedTuple):
    """An event of a known user, as a history needs it."""

    item_id: str
    time_us: int
    type: str


def _microseconds(value: object) -> int:
    """Read ISO 8601 text (UTC where it names no offset) or seconds since 1970."""
    if isinstance(value, str):
        micros = _iso_microseconds(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        micros = round(value * 1_000_000)
    else:
        raise ValueError("a timestamp is ISO 8601 text or seconds since 1970")
    if micros < 0:
        raise ValueError("the timestamp is before 1970")
    if micros > time.time_ns() // 1000 + CLOCK_SKEW_US:
        raise ValueError("the timestamp is in the future")
    return micros


def _iso_microseconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"the timestamp {text[:40]!r} is not ISO 8601") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _type(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("the type is empty or has characters that cannot be printed")
    return value


Moment = Annotated[
    int,
    BeforeValidator(_microseconds),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}],
            "description": "ISO 8601 (UTC where it names no offset) or seconds since 1970.",
        }
    ),
]


class NewEvent(BaseModel):
    """An event as a client says it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    user_id: Identifier
    item_id: Identifier
    timestamp: Moment | None = None
    """Default: when it arrives."""

    type: Annotated[str, Field(max_length=MAX_TYPE_LENGTH), AfterValidator(_type)] | None = None
    """view, click, like, purchase, dislike, ...; default: `events.default_type`."""

    value: float | None = Field(default=None, allow_inf_nan=False)
    """A number that belongs to the event, such as a rating or a price."""

    event_id: Identifier | None = None
    """The same id is the same event, however often it is sent; default: a hash of the content. With
    neither this nor a timestamp it is a new event each time it arrives, and what is sent once may
    arrive twice."""


def kept_as(new: NewEvent, config: EventsConfig, key: bytes | None, now_us: int) -> Event:
    """Return the event as it is kept.

    Args:
        new: As it came.
        config: Names the default type.
        key: Of the pseudonyms.
        now_us: The time of an event that says none, in microseconds since 1970.
    """
    user = pseudonym(new.user_id, key)
    moment = now_us if new.timestamp is None else new.timestamp
    kind = config.default_type if new.type is None else new.type
    number = math.nan if new.value is None else new.value
    event_id = new.event_id or content_id(user, new.item_id, moment, number, kind)
    return Event(event_id, user, new.item_id, moment, kind, new.value)
