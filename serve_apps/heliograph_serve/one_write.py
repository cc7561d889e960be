"""An answer leaves the ingress in one piece.

uvicorn writes the head of an answer and then its body, and uvloop hands either to the system at
once: two packets, for each of which HAProxy and then the client wake up. Here the head waits for
the body, but no longer than until the event loop has done what it has in hand.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD = b"HTTP/"
"""What a head begins with."""


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


class OneWrite(HttpToolsProtocol):
    """uvicorn's protocol over such a transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to answer the requests of a connection."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))


def answer_in_one_piece() -> None:
    """Let servers that start in this process, with uvicorn's own choice of a protocol, do so."""
    HTTP_PROTOCOLS["auto"] = f"{OneWrite.__module__}:{OneWrite.__qualname__}"
