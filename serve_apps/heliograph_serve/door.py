"""The door of the ingress: every request passes it, and what it refuses goes no further.

Cheapest first: route and key, rate, size, room; then the body, then the handler. So an endpoint
that is overrun spends microseconds on what it refuses and never queues.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection
from pathlib import Path

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliograph.attributes import FieldError
from heliograph.config import ServeConfig
from heliograph_serve.access import Entry, RouteTable, WatchedKeys
from heliograph_serve.api_errors import ApiError, error_answer, misfit_answer
from heliograph_serve.limits import (
    BodyReader,
    RateLimit,
    again,
    announced_bytes,
    body_too_large,
    overloaded,
    rate_exceeded,
)
from heliograph_serve.request_record import CURRENT, RequestRecord
from heliograph_serve.watch import Watch

EVERYBODY = "everybody"
"""Who shares a limit where there are no keys: behind HAProxy all callers have its address, and
`X-Forwarded-For` is what a caller likes it to be."""

CLIENT_GONE = 499
BEARER = b"bearer "
JSON = b"application/json"
OWN_PAGES = (b"same-origin", b"none")
"""What `Sec-Fetch-Site` says of our own pages, and where a user asks and no page does."""


class Door:
    """ASGI middleware around the routes of the ingress."""

    def __init__(self, app: ASGIApp, settings: ServeConfig, keys: Path | None) -> None:
        self.app = app
        self.limits = settings.limits
        self.origins = settings.cors_origins
        self.keys = None if keys is None else WatchedKeys(keys)
        rate = settings.limits.requests_per_s
        self.rate = None if rate is None else RateLimit(rate, settings.limits.burst)
        self.watch = Watch(settings.log_share)
        self.bodies = BodyReader(settings.limits)
        self.under_way = 0
        self._routes: RouteTable | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it in."""
        if scope["type"] == "lifespan":
            async with self.watch.exporting(lambda: self.under_way):
                return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = _first_of_each(scope["headers"])
        entry = self._entry(scope)
        given_id = headers.get(b"x-request-id")
        record = RequestRecord(
            entry.label, given_id.decode("latin-1") if given_id else uuid.uuid4().hex
        )

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        token = CURRENT.set(record)
        try:
            await self._let_in(entry, headers, record, scope, receive, answer)
        except ApiError as refusal:
            await error_answer(refusal)(scope, receive, answer)
        except FieldError as misfit:
            await misfit_answer(misfit)(scope, receive, answer)
        except asyncio.CancelledError:
            record.status = CLIENT_GONE
            raise
        finally:
            CURRENT.reset(token)
            self.watch.note(record)

    async def _let_in(
        self,
        entry: Entry,
        headers: dict[bytes, bytes],
        record: RequestRecord,
        scope: Scope,
        receive: Receive,
        answer: Send,
    ) -> None:
        if entry.is_probe:
            return await self.app(scope, receive, answer)
        if is_of_a_foreign_page(headers, self.origins):
            raise ApiError(
                403,
                "foreign_page",
                "a page of another origin asks, and serve.cors_origins does not name it",
            )
        if entry.scope is not None:
            self._check_key(entry, headers.get(b"authorization"), record)
        self._check_rate(record.caller or EVERYBODY)
        length = announced_bytes(headers.get(b"content-length"))
        if length is not None and length > self.limits.body_bytes:
            raise body_too_large(self.limits)
        if self.under_way >= self.limits.under_way:
            raise overloaded()
        self.under_way += 1
        try:
            if length or b"transfer-encoding" in headers:
                body = await self.bodies.read(receive)
                if await _is_answered_quickly(entry, headers, body, answer):
                    return
                receive = again(body, receive)
            await self.app(scope, receive, answer)
        finally:
            self.under_way -= 1

    def _entry(self, scope: Scope) -> Entry:
        if self._routes is None:  # not at the start: the app is complete when it is first called
            self._routes = RouteTable(scope["app"].routes)
        return self._routes.find(scope["method"], get_route_path(scope))

    def _check_key(self, entry: Entry, authorization: bytes | None, record: RequestRecord) -> None:
        if self.keys is None:
            return
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            raise ApiError(
                401, "unauthorized", "an API key is missing; send `Authorization: Bearer KEY`"
            )
        key = self.keys.find(authorization[len(BEARER) :].strip().decode("latin-1"))
        if key is None:
            raise ApiError(401, "unauthorized", "this is no API key of this endpoint")
        record.caller = key.name
        if entry.scope not in key.scopes:
            raise ApiError(
                403,
                "forbidden",
                f"the key {key.name} has the scopes {', '.join(key.scopes)}, but this asks for "
                f"{entry.scope}",
            )

    def _check_rate(self, caller: str) -> None:
        if self.rate is not None and (wait_s := self.rate.wait_s(caller)):
            raise rate_exceeded(wait_s)


def is_of_a_foreign_page(headers: dict[bytes, bytes], origins: Collection[str]) -> bool:
    """Tell whether a browser asks on behalf of a page of another origin than the named ones.

    Without a body or a header of its own such a page may send a POST unasked; it cannot read the
    answer, but what it asks for would be done. A browser says by `Sec-Fetch-Site` whose page it is
    (W3C, Fetch Metadata Request Headers), and where the endpoint has no TLS by `Origin` alone.
    """
    origin = headers.get(b"origin")
    if origin is None or origin.decode("latin-1") in origins or "*" in origins:
        return False
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in OWN_PAGES
    return origin.partition(b"://")[2] != headers.get(b"host")


async def _is_answered_quickly(
    entry: Entry, headers: dict[bytes, bytes], body: Message, answer: Send
) -> bool:
    """Answer a JSON body past the router where the route has a way for that, and it is in order."""
    if entry.quick is None or headers.get(b"content-type") != JSON or "body" not in body:
        return False
    content = await entry.quick(body["body"])
    if content is None:
        return False
    length = str(len(content)).encode()
    told = [(b"content-length", length), (b"content-type", JSON)]
    await answer({"type": "http.response.start", "status": 200, "headers": told})
    await answer({"type": "http.response.body", "body": content})
    return True


def _first_of_each(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    return dict(reversed(headers))
