"""The part of the ingress that changes items: checked, embedded, kept, and told to every replica.

An answer means that the change is on the disk and that every replica that lives has applied it. One
that did not confirm in time follows by itself; the same request again says when all have.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter
from fastapi import Body as BodyOf
from numpy.typing import NDArray
from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from heliograph.catalog import plain_types
from heliograph.config import ServeConfig
from heliograph.event_store.item_log import ItemUpdate, Written
from heliograph.item_changes import Changes, encoder_name
from heliograph.item_columns import ItemColumns
from heliograph_serve.api_errors import ApiError, ErrorBody
from heliograph_serve.feedback import STORE_FAILS, store_is_down
from heliograph_serve.items_api import (
    AvailabilityBatch,
    ItemBatch,
    ItemsChanged,
)
from heliograph_serve.rollout import Fleet, ReplicaFailed
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import Holder

ENCODE_TIMEOUT_S = 60.0
TELL_TIMEOUT_S = 5.0
TELL_AGAIN_S = 0.5
TIMES_TOLD = 4
"""A replica that has died fails the first call and is gone at one of the next."""

router = APIRouter()
ERRORS: dict[int | str, dict[str, object]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON."},
    409: {
        "model": ErrorBody,
        "description": "There is no room for more new items, or the bundle is too old.",
    },
    422: {"model": ErrorBody, "description": "The request is not valid; the message says why."},
    503: {"model": ErrorBody, "description": "Not kept, or not confirmed by all; try again."},
}


class ItemsIngress(Holder[Serving]):
    """Routes that change items; the ingress inherits them."""

    serve: ServeConfig
    fleet: Fleet
    ranker: DeploymentHandle[Any]

    @router.put("/v1/items", responses=ERRORS)
    async def put_items(self, batch: Annotated[ItemBatch, BodyOf()]) -> ItemsChanged:
        """Add items to the catalogue or replace them; they are recommended from now on.

        An item is replaced as a whole. Items that the next build is to know too need not be put
        anywhere else: it takes them from here.
        """
        await self._read_changes()
        serving = self.shelf.current
        _require_mean(serving)
        read = await asyncio.to_thread(_read, serving, batch)
        self._require_room(serving, [one for one in read if one not in serving.catalogue.row_of])
        vectors = await self._vectors(serving, {item: one.text for item, one in read.items()})
        updates = [
            ItemUpdate(
                item_id,
                one.available,
                one.columns,
                one.text,
                encoder_name(serving.config.embedding),
                None if vector is None else vector.tobytes(),
            )
            for (item_id, one), vector in zip(read.items(), vectors.values(), strict=True)
        ]
        return await self._change(serving, updates, [])

    @router.put("/v1/items/availability", responses=ERRORS)
    async def put_availability(self, batch: Annotated[AvailabilityBatch, BodyOf()]) -> ItemsChanged:
        """Say which items may be recommended; what may not is in no answer from now on."""
        await self._read_changes()
        serving = self.shelf.current
        wanted = {item.item_id: item.available for item in batch.items}
        known = {item: is_so for item, is_so in wanted.items() if item in serving.catalogue.row_of}
        updates = [ItemUpdate(item_id, is_so) for item_id, is_so in known.items()]
        return await self._change(serving, updates, [one for one in wanted if one not in known])

    async def _read_changes(self) -> None:
        try:
            await self.items.catch_up()
        except STORE_FAILS as error:
            raise store_is_down("the event store does not answer; try again", error) from error

    def _require_room(self, serving: Serving, new: Sequence[str]) -> None:
        there = len(serving.catalogue) - len(serving.bundled.catalogue)
        room = self.serve.room_for_items
        if new and there + len(new) > room:
            raise ApiError(
                409,
                "no_room",
                f"{len(new)} new items came, and of the room for {room} beside those of the bundle "
                f"{room - there} are left; build and deploy a bundle that has them, or start the "
                "graph with a larger serve.room_for_items",
                "items",
            )

    async def _vectors(
        self, serving: Serving, texts: Mapping[str, str]
    ) -> dict[str, NDArray[np.float32] | None]:
        """Return a vector for each text that is not the bundle's; those known already are taken.

        Raises:
            ApiError: Nobody can read the texts now.
        """
        found: dict[str, NDArray[np.float32] | None] = {}
        missing = []
        for item_id, text in texts.items():
            if _text_of(serving, item_id) == text:
                found[item_id] = None
                continue
            found[item_id] = _known_vector(self.shelf.changes, serving, item_id, text)
            if found[item_id] is None:
                missing.append(item_id)
        if missing:
            some = [texts[item_id] for item_id in missing]
            found |= zip(missing, await self._encoded(serving, some), strict=True)
        return {item_id: found[item_id] for item_id in texts}

    async def _encoded(self, serving: Serving, texts: Sequence[str]) -> NDArray[np.float32]:
        try:
            async with asyncio.timeout(ENCODE_TIMEOUT_S):
                vectors: NDArray[np.float32] = await self.ranker.encode.remote(
                    serving.config.embedding, texts
                )
        except Exception as error:  # by gRPC a replica's own error comes as it was raised there
            raise ApiError(
                503,
                "encoder_unavailable",
                f"the texts of the items cannot be read now: {_cause(error)}",
            ) from error
        return vectors

    async def _change(
        self, serving: Serving, updates: Sequence[ItemUpdate], unknown: list[str]
    ) -> ItemsChanged:
        try:
            written = await self.items.log.write(updates)
        except STORE_FAILS as error:
            message = "the event store did not confirm the change; try again"
            raise store_is_down(message, error) from error
        await self._tell_everyone(written.change)
        return _told(serving, updates, written, unknown)

    async def _tell_everyone(self, change: int) -> None:
        for left in reversed(range(TIMES_TOLD)):
            try:
                await self.fleet.everyone("catch_up", change, timeout_s=TELL_TIMEOUT_S)
                return
            except ReplicaFailed as error:
                if not left:
                    raise ApiError(
                        503,
                        "not_everywhere",
                        f"the change is kept as number {change}, but not every replica has "
                        f"confirmed it: {error}; each follows by itself, and the same request "
                        "again says when all have",
                    ) from error
                await asyncio.sleep(TELL_AGAIN_S)


@dataclass(frozen=True)
class ReadItem:
    """One item that came and fits."""

    columns: str
    """As JSON."""

    text: str
    """What the encoder reads of it."""

    available: bool


def _read(serving: Serving, batch: ItemBatch) -> dict[str, ReadItem]:
    """Check the items of a request.

    Raises:
        FieldError: A column is not there, or its value does not fit.
    """
    items = {item.item_id: (place, item) for place, item in enumerate(batch.items)}
    schema = plain_types(serving.bundled.catalogue.table.slice(0, 0)).schema
    columns = ItemColumns(serving.config.items, schema)
    checked = {
        item_id: columns.check(item.__pydantic_extra__, f"items.{place}")
        for item_id, (place, item) in items.items()
    }
    texts = columns.clean(list(checked), list(checked.values()))["text"].to_pylist()
    return {
        item_id: ReadItem(json.dumps(row, sort_keys=True), text, items[item_id][1].available)
        for (item_id, row), text in zip(checked.items(), texts, strict=True)
    }


def _require_mean(serving: Serving) -> None:
    if serving.bundled.text.mean is None:
        raise ApiError(
            409,
            "old_bundle",
            "the served bundle is of an older heliograph, and no item can be added to it; "
            "build and deploy it again",
        )


def _cause(error: Exception) -> Exception:
    return error.cause if isinstance(error, RayTaskError) else error


def _text_of(serving: Serving, item_id: str) -> str | None:
    """Return the text that the bundle has of an item."""
    bundled = serving.bundled.catalogue
    row = bundled.row_of.get(item_id)
    return None if row is None else str(bundled.table["text"][row].as_py())


def _known_vector(
    changes: Changes, serving: Serving, item_id: str, text: str
) -> NDArray[np.float32] | None:
    state = changes.states.get(item_id)
    name = encoder_name(serving.config.embedding)
    if state is None or state.vector is None or (state.encoder, state.text) != (name, text):
        return None
    return np.frombuffer(state.vector, np.float32)


def _told(
    serving: Serving, updates: Sequence[ItemUpdate], written: Written, unknown: list[str]
) -> ItemsChanged:
    told = ItemsChanged(
        change=written.change,
        added=[],
        updated=[],
        made_available=[],
        made_unavailable=[],
        unknown_items=unknown,
    )
    for update in updates:
        before = written.before.get(update.item_id)
        is_new = update.item_id not in serving.bundled.catalogue.row_of
        if update.columns is not None:
            if is_new and (before is None or before.columns is None):
                told.added.append(update.item_id)
            elif before is None or before.columns != update.columns:
                told.updated.append(update.item_id)
        was_available = before is None or before.available
        if was_available != update.available:
            made = told.made_available if update.available else told.made_unavailable
            made.append(update.item_id)
    return told
