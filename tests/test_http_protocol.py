"""Answers in one write, and clients that hang up: over noted transports, and by real uvicorn."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvicorn
from ray.serve._private.http_util import parse_disconnect_disabled_header

from heliograph_serve.http_protocol import IngressProtocol, JoiningTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class Noted:
    """A transport that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("closed")

    def is_closing(self) -> bool:
        return False


def joining() -> tuple[Noted, JoiningTransport]:
    noted = Noted()
    transport = cast(asyncio.Transport, noted)
    return noted, JoiningTransport(transport, asyncio.get_running_loop())


def test_a_head_and_its_body_are_written_at_once() -> None:
    async def scenario() -> None:
        noted, transport = joining()
        transport.write(HEAD)
        transport.write(b"body")
        assert noted.told == [HEAD + b"body"]
        await asyncio.sleep(0)
        assert noted.told == [HEAD + b"body"]

    asyncio.run(scenario())


def test_a_head_without_a_body_waits_for_no_longer_than_a_turn_of_the_loop() -> None:
    async def scenario() -> None:
        noted, transport = joining()
        transport.write(HEAD)
        assert noted.told == []
        await asyncio.sleep(0)
        assert noted.told == [HEAD]

    asyncio.run(scenario())


def test_what_is_written_before_the_end_comes_before_it() -> None:
    async def scenario() -> None:
        noted, transport = joining()
        transport.write(HEAD)
        transport.close()
        assert noted.told == [HEAD, "closed"]

    asyncio.run(scenario())


def test_two_heads_in_a_turn_stay_in_order() -> None:
    async def scenario() -> None:
        noted, transport = joining()
        transport.write(HEAD)
        transport.write(HEAD)
        transport.write(b"body")
        assert b"".join(cast(list[bytes], noted.told)) == HEAD + HEAD + b"body"

    asyncio.run(scenario())


async def slow_stream(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a body in three parts, a turn of the loop apart."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"one ", b"two ", b"three"):
        await asyncio.sleep(0.001)
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def served(
    app: Any, protocol: type[asyncio.Protocol]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve an app by real uvicorn and yield a connection to it."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, date_header=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    yield reader, writer
    writer.close()
    server.should_exit = True
    await serving


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_uvicorn_answers_by_it_as_by_its_own_protocol(method: str) -> None:
    async def answer_of(protocol: type[asyncio.Protocol]) -> bytes:
        async with served(slow_stream, protocol) as (reader, writer):
            writer.write(f"{method} / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n".encode())
            return await reader.read()

    async def scenario() -> None:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        answer = await answer_of(IngressProtocol)
        assert answer == await answer_of(HttpToolsProtocol)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"0\r\n\r\n" if method == "GET" else b"\r\n\r\n")

    asyncio.run(asyncio.wait_for(scenario(), 20))


REQUEST = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


def test_a_client_that_hangs_up_ends_its_request_and_serve_need_not_look_out_for_it() -> None:
    async def scenario() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()
        headers: list[tuple[bytes, bytes]] = []

        async def never(scope: Any, receive: Any, send: Any) -> None:
            headers.extend(scope["headers"])
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.set()
                raise

        async with served(never, IngressProtocol) as (_, writer):
            writer.write(REQUEST)
            await begun.wait()
            assert not ended.is_set()
            writer.close()
            await ended.wait()
        assert parse_disconnect_disabled_header(dict(headers))

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_what_is_done_after_an_answer_goes_on_when_the_client_leaves() -> None:
    async def scenario() -> None:
        gone, done = asyncio.Event(), asyncio.Event()

        async def tidy(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            await gone.wait()
            done.set()

        async with served(tidy, IngressProtocol) as (reader, writer):
            writer.write(REQUEST)
            await reader.readline()
            writer.close()
            await asyncio.sleep(0.05)  # until uvicorn has heard of it
            gone.set()
            await done.wait()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_requests_on_one_connection_are_answered_in_turn_whether_they_wait_or_not() -> None:
    async def scenario() -> None:
        async with served(slow_stream, IngressProtocol) as (reader, writer):
            writer.write(REQUEST + REQUEST)
            first = await reader.readuntil(b"0\r\n\r\n")
            assert first == await reader.readuntil(b"0\r\n\r\n")
            writer.write(REQUEST)
            assert first == await reader.readuntil(b"0\r\n\r\n")

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_what_a_client_says_of_where_it_comes_from_is_not_believed() -> None:
    async def scenario() -> None:
        seen: list[Any] = []

        async def note(scope: Any, receive: Any, send: Any) -> None:
            seen.extend([scope["client"], scope["scheme"]])
            await slow_stream(scope, receive, send)

        async with served(note, IngressProtocol) as (reader, writer):
            ours = writer.get_extra_info("sockname")
            said = b"x-forwarded-for: 8.8.8.8\r\nx-forwarded-proto: https\r\n"
            writer.write(REQUEST[:-2] + said + b"\r\n")
            await reader.readuntil(b"0\r\n\r\n")
        assert seen == [ours, "http"]

    asyncio.run(asyncio.wait_for(scenario(), 20))
