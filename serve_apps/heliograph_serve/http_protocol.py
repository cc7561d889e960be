"""How the ingress speaks HTTP: as uvicorn does, but for three things that cost each request time.

uvicorn writes the head of an answer and then its body, and uvloop hands either to the system at
once: two packets, for each of which HAProxy and then the client wake up. Here the head waits for
the body, but no longer than until the event loop has done what it has in hand.

Serve notices a client that hangs up by a task that waits for it beside each request, and has to
wait for both. The protocol is told anyway when a connection is lost: it ends the request itself,
and asks Serve to leave it alone.

uvicorn reads in `X-Forwarded-For` who a client is. Nothing here believes that header.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD = b"HTTP/"
"""What a head begins with."""

UNWATCHED = (b"x-request-disconnect-disabled", b"?1")
"""A header that Serve reads as: nobody need notice when the client hangs up."""


class JoiningTransport:
    """A transport that keeps a head back until what follows is written."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write, with the head before it if there is one; a head alone waits."""
        if data.startswith(HEAD) and not self._head:
            self._head = data
            self._loop.call_soon(self._flush)
            return
        head, self._head = self._head, b""
        self._transport.write(head + data)

    def close(self) -> None:
        """Close the transport once all is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")

    def __getattr__(self, name: str) -> Any:
        """Leave all else to the transport."""
        return getattr(self._transport, name)


class IngressProtocol(HttpToolsProtocol):
    """Answers in one write, and ends the request of a client that has hung up."""

    _begun: tuple[RequestResponseCycle, asyncio.Task[None]] | None = None
    """The request that was begun last, and what answers it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to answer the requests of a connection."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))
        if isinstance(self.app, ProxyHeadersMiddleware):
            self.app = self.app.app

    def connection_lost(self, exc: Exception | None) -> None:
        """End what nobody waits for any more."""
        super().connection_lost(exc)
        if self._begun is None:
            return
        cycle, answering = self._begun
        if not cycle.response_complete:
            cycle.disconnected = True
            answering.cancel()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to answer; uvicorn keeps no hold of the task by which it could be ended."""
        cast(list[tuple[bytes, bytes]], cycle.scope["headers"]).append(UNWATCHED)
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._begun = cycle, task


def speak_http_by_it() -> None:
    """Let servers that start in this process, with uvicorn's own choice of a protocol, do so."""
    HTTP_PROTOCOLS["auto"] = f"{IngressProtocol.__module__}:{IngressProtocol.__qualname__}"
