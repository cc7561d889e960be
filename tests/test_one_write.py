"""Answers in one piece: over a transport that writes down what it is given, and by real uvicorn."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest
import uvicorn

from heliograph_serve.one_write import JoiningTransport, OneWrite

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


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_uvicorn_answers_by_it_as_by_its_own_protocol(method: str) -> None:
    async def answer_of(protocol: type[asyncio.Protocol]) -> bytes:
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            slow_stream, http=protocol, lifespan="off", log_config=None, date_header=False
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(f"{method} / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        server.should_exit = True
        await serving
        return answer

    async def scenario() -> None:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        answer = await answer_of(OneWrite)
        assert answer == await answer_of(HttpToolsProtocol)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"0\r\n\r\n" if method == "GET" else b"\r\n\r\n")

    asyncio.run(asyncio.wait_for(scenario(), 20))
