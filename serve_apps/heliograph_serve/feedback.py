"""The part of the ingress that hears what users do: events in, histories out, erasure.

Many requests share one transaction: while one is being committed, others gather for the next.
A request for recommendations never fails because the store did; the answer says that it is stale.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi import Path as PathParameter
from ray import serve
from sqlalchemy.exc import SQLAlchemyError

from heliograph.config import ServeConfig
from heliograph.event_store.engine import store_url
from heliograph.event_store.event import Event, NewEvent, kept_as
from heliograph.event_store.exporting import erase_from_exports
from heliograph.event_store.store import Appended, EventStore, Heard, Stored
from heliograph.feedback_files import Erasures, user_digest
from heliograph.history import NO_PAST, Past, merged
from heliograph.identifiers import Identifier
from heliograph.interactions import History
from heliograph.pseudonyms import pseudonym, read_key
from heliograph.workspace import InputError
from heliograph_serve.api_errors import ApiError, ErrorBody
from heliograph_serve.feedback_api import (
    UNKNOWN_ITEMS_NAMED,
    Consumed,
    EventsKept,
    Feedback,
    KeptEvent,
    Receipt,
    UserEvents,
)
from heliograph_serve.request_record import note_events, note_user
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import Holder, Shelf
from heliograph_serve.stage import Stage, StageUnavailable
from heliograph_serve.tombstones import Tombstones
from heliograph_serve.warm_up import RECENT_USERS, warm_up

REQUESTS_A_COMMIT = 32
"""With a thousand events in each, a commit of so many takes one or two seconds, not five."""

WRITE_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 2.0
BROADCAST_TIMEOUT_S = 2.0
SHARE_OF_DEADLINE = 0.5
"""Of the time that a request has left, for looking up what its user has done lately."""

STORE_FAILS = (SQLAlchemyError, OSError, InputError)
"""What reading or writing the store may end with; the last, where a newer heliograph has it."""

router = APIRouter()
logger = logging.getLogger("ray.serve")
ERRORS: dict[int | str, dict[str, object]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON."},
    422: {"model": ErrorBody, "description": "The request is not valid; the message says why."},
    503: {"model": ErrorBody, "description": "The event store does not answer; try again."},
}
UserId = Annotated[Identifier, PathParameter()]


@dataclass(frozen=True)
class Known:
    """What is known of a user by now."""

    past: Past
    is_fresh: bool
    """Whether the event store was asked; else this is what the bundle says, or nothing where the
    user has been erased or it is not known who has."""


class FeedbackIngress(Holder[Serving]):
    """Routes and look-ups around the event store; the ingress inherits them."""

    def __init__(self, shelf: Shelf[Serving], settings: ServeConfig) -> None:
        self.shelf = shelf
        self.pseudonym_key = read_key(shelf.current.config.events)
        self.store = EventStore(store_url(settings, shelf.origin.bundles))
        self.tombstones = Tombstones(self.store)
        self.history: Stage[str, Heard] = Stage(
            "history",
            self.store.heard,
            settings.max_batch_size,
            at_once=self.store.heard_at_once,
        )
        self.recent: deque[str] = deque(maxlen=RECENT_USERS)
        """Pseudonyms or identifiers of those who came last; some more than once."""

        self.events: Stage[Sequence[Event], Appended] = Stage(
            "events", self.store.append, REQUESTS_A_COMMIT
        )

    @router.post("/v1/events", responses=ERRORS)
    async def add_events(self, feedback: Annotated[Feedback, Body()]) -> EventsKept:
        """Keep one event or up to 1,000; the next recommendation of their users reflects them.

        An answer means that the events are on the disk. Without one, send them again: an event that
        has an event_id or a timestamp counts once, however often it comes.
        """
        serving = self.shelf.current
        new = [feedback] if isinstance(feedback, NewEvent) else feedback.events
        now_us = time.time_ns() // 1000
        events = [
            # events that say no time happened in the order in which they stand
            kept_as(event, serving.config.events, self.pseudonym_key, now_us + place)
            for place, event in enumerate(new)
        ]
        try:
            kept = await self.events.ask(events, WRITE_TIMEOUT_S)
        except StageUnavailable as error:
            raise store_is_down(
                "the event store did not confirm the events; send them again, "
                "those with an event_id or a timestamp count once"
            ) from error
        note_events(kept, events)
        row_of = serving.catalogue.row_of
        unknown = {event.item_id for event in events if event.item_id not in row_of}
        return EventsKept(
            new=kept.new,
            repeated=kept.repeated,
            erased=kept.erased,
            event_ids=[event.event_id for event in events],
            unknown_items=sorted(unknown)[:UNKNOWN_ITEMS_NAMED],
        )

    @router.get("/v1/users/{user_id:path}/events", responses=ERRORS)
    async def user_events(
        self,
        user_id: UserId,
        after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> UserEvents:
        """Return a user's events in the store, a page at a time, in the order of arrival.

        With the newest items that recommendations go by, those of the served bundle included.
        """
        user = pseudonym(user_id, self.pseudonym_key)
        note_user(user)
        try:
            rows = await self.store.page(user, after, limit + 1)
        except STORE_FAILS as error:
            raise store_is_down("the event store does not answer", error) from error
        serving = self.shelf.current
        past = (await self._known_as(serving, user, READ_TIMEOUT_S)).past
        return UserEvents(
            user_id=user_id,
            events=[_told(row) for row in rows[:limit]],
            next=rows[limit - 1].position if len(rows) > limit else None,
            history=_newest(past, limit, serving),
        )

    @router.delete("/v1/users/{user_id:path}", responses=ERRORS)
    async def erase_user(self, user_id: UserId) -> Receipt:
        """Erase a user: events, exports, remembered candidates; hide what the bundle knows.

        Doing it again finishes what was interrupted. Replicas hear of it before exports are read:
        a file that is broken must not keep the user in answers.
        """
        user = pseudonym(user_id, self.pseudonym_key)
        digest = user_digest(user)
        histories = {}
        for serving in list(self.shelf.held.values()):
            known = await self.known(serving, user_id, READ_TIMEOUT_S)
            if known.is_fresh:
                histories[serving.id] = known.past.history
        try:
            erased = await self.store.erase(user, time.time_ns() // 1000)
        except STORE_FAILS as error:
            raise store_is_down("the event store did not confirm the erasure", error) from error
        in_bundle = self.shelf.current.histories.past(user)
        visible = len(in_bundle.excluded) if digest not in self.tombstones else 0
        dropped = await self._forget_everywhere(digest, histories)
        return Receipt(
            user_id=user_id,
            erased_until=_iso(erased.until_us),
            store_events=erased.events,
            exposures=erased.exposures,
            exported_events=await self._erase_from_exports({digest: erased.until_us}),
            bundle_events=visible,
            cached_candidates=dropped,
        )

    async def _erase_from_exports(self, erased: Erasures) -> dict[str, int | None]:
        try:
            return await erase_from_exports(self.store, erased)
        except InputError as error:
            raise ApiError(
                503,
                "exports_not_erased",
                "the user is erased from the event store and on every replica, but not from all "
                f"that was exported: {error}; then send this request again",
            ) from error
        except (SQLAlchemyError, OSError) as error:
            raise store_is_down(
                "the event store did not tell where events were exported"
            ) from error

    async def known(self, serving: Serving, user_id: str, timeout_s: float) -> Known:
        """Return what is known of a user: from a bundle, and since."""
        user = pseudonym(user_id, self.pseudonym_key)
        note_user(user)
        self.recent.append(user)
        return await self._known_as(serving, user, timeout_s)

    async def _known_as(self, serving: Serving, user: str, timeout_s: float) -> Known:
        past = serving.histories.past(user)
        try:
            heard = await self.history.ask(user, timeout_s)
        except StageUnavailable:
            return Known(NO_PAST if self.tombstones.hide(user) else past, is_fresh=False)
        if heard.erased_us is not None:
            self.tombstones.add(user_digest(user))
            past = past.since(heard.erased_us)
        if heard.events:
            past = merged(past, heard.events, serving.catalogue.row_of, serving.config.events)
        return Known(past, is_fresh=True)

    async def warm_up(self, bundle_id: str) -> None:
        """Answer those who came lately from a bundle that is about to be served."""
        serving = self.shelf[bundle_id]

        async def past_of(user: str) -> Past:
            return (await self._known_as(serving, user, READ_TIMEOUT_S)).past

        await warm_up(serving, self.recent, past_of)

    async def hears(self) -> bool:
        """Tell whether the event store answers."""
        try:
            await self.history.ask("", READ_TIMEOUT_S)
        except StageUnavailable:
            return False
        return True

    async def check_health(self) -> None:
        """Look at who has been erased too."""
        await asyncio.gather(super().check_health(), self.tombstones.look())

    def forget(self, digest: str, histories: dict[str, History]) -> int:
        """Drop what this replica remembers of a user.

        Args:
            digest: Of the pseudonym or identifier, as it stands in the tombstone.
            histories: Bundle -> the user's history in its numbers; of any other bundle that is
                held here everybody's remembered candidates go.

        Returns:
            Remembered candidates dropped.
        """
        self.tombstones.add(digest)
        others = (user for user in self.recent if user_digest(user) != digest)
        self.recent = deque(others, maxlen=RECENT_USERS)
        return sum(
            serving.remembered.forget(histories.get(serving.id))
            for serving in self.shelf.held.values()
        )

    async def _forget_everywhere(self, digest: str, histories: dict[str, History]) -> int:
        here = serve.get_replica_context()
        handle = serve.get_deployment_handle(here.deployment, here.app_name)
        try:
            dropped = await handle.broadcast("forget", digest, histories).results_async(
                timeout_s=BROADCAST_TIMEOUT_S
            )
        except Exception as error:
            # a replica that ends forgets by itself; one that hangs finds the tombstone in the store
            logger.warning("not every replica said that it has forgotten a user: %s", error)
            dropped = [self.forget(digest, histories)]
        return sum(dropped)


def store_is_down(message: str, error: Exception | None = None) -> ApiError:
    """Return the answer to requests that nothing but the store can answer.

    Of what failed, an `InputError` is told as well: it says what to do.
    """
    reason = f": {error}" if isinstance(error, InputError) else ""
    return ApiError(503, "store_unavailable", message + reason)


def _told(row: Stored) -> KeptEvent:
    event = row.event
    return KeptEvent(
        event_id=event.event_id,
        item_id=event.item_id,
        timestamp=_iso(event.time_us),
        type=event.type,
        value=event.value,
    )


def _newest(past: Past, limit: int, serving: Serving) -> list[Consumed]:
    return [
        Consumed(
            item_id=serving.catalogue.ids[row], title=serving.titles[row], timestamp=_iso(time_us)
        )
        for row, time_us in zip(
            past.history[::-1][:limit].tolist(), past.times[::-1][:limit].tolist(), strict=True
        )
    ]


def _iso(micros: int) -> str:
    seconds, rest = divmod(micros, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest).isoformat()
