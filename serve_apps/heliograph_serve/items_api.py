"""The words of the part of the HTTP API that changes items."""

from __future__ import annotations

from pydantic import ConfigDict, Field, JsonValue

from heliograph.event_store.event import MAX_BATCH
from heliograph.identifiers import Identifier
from heliograph_serve.api import Body

EXAMPLE: JsonValue = {
    "items": [
        {"item_id": "hammer-2", "title": "Claw hammer", "release_year": 2026},
        {"item_id": "hammer-1", "title": "Old hammer", "available": False},
    ]
}


class NewItem(Body):
    """One item as it would stand in the next file of items, by the names of its columns.

    The identifier is `item_id`, whatever its column is called; a column that is not named is empty.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    item_id: Identifier
    available: bool = True
    """Whether it may be recommended."""


class ItemBatch(Body):
    """Several items; of two with the same identifier the later one counts."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    items: list[NewItem] = Field(min_length=1, max_length=MAX_BATCH)


class Availability(Body):
    """Whether an item may be recommended."""

    item_id: Identifier
    available: bool


class AvailabilityBatch(Body):
    """The same of several; of two with the same identifier the later one counts."""

    items: list[Availability] = Field(min_length=1, max_length=MAX_BATCH)


class ItemsChanged(Body):
    """What a change has done; every replica has applied it."""

    change: int
    """Number of the newest change."""

    added: list[str]
    """Items that were not there before."""

    updated: list[str]
    """Items whose columns are others now than those of the last change."""

    made_available: list[str]
    made_unavailable: list[str]
    unknown_items: list[str]
    """Items that the catalogue lacks; of their availability nothing is kept."""
