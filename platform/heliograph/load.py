"""A closed loop of HTTP clients in one thread: each sends its next request when it has the answer.

Blocking sockets and a selector, because on two cores the clients must cost little: about 50 us of
CPU a request, where httpx takes about 1 ms. Knows nothing of what is asked or answered.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

STALLED_S = 30.0
OK = 200
HUNG_UP = 0
"""Status of a request whose connection ended before its answer was whole."""

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
CLOSES = re.compile(rb"connection: *close", re.IGNORECASE)


class LoadError(RuntimeError):
    """An answer was not what it has to be: such a run measures nothing."""


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes
    closes: bool = False
    """Whether the server ends the connection with it."""


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    number: int
    """Of the request, in the order in which they were sent."""

    sent: float
    received: float
    status: int
    body: bytes

    @property
    def latency_ms(self) -> float:
        """From the request to the answer."""
        return (self.received - self.sent) * 1000

    def good(self) -> bytes:
        """Return the body.

        Raises:
            LoadError: The status is not 200.
        """
        if self.status == HUNG_UP:
            raise LoadError(f"the server hung up on request {self.number}")
        if self.status != OK:
            raise LoadError(f"status {self.status} instead of 200: {self.body!r}")
        return self.body


class Client:
    """One connection to this machine that is kept open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.connect()

    def connect(self) -> None:
        """Open the connection, or open it anew."""
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=STALLED_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_over = False

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def send(self, request: bytes, number: int = 0) -> None:
        """Send a request; the answer to the last one has been received."""
        self._received = b""
        self._number = number
        self._sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> Answer | None:
        """Read what has come; return the answer once it is whole.

        Raises:
            LoadError: The answer does not tell its length.
        """
        try:
            chunk = self.socket.recv(1 << 16)
        except ConnectionError:
            chunk = b""
        if not chunk:
            self.is_over = True
            return self._answer(Reply(HUNG_UP, self._received))
        self._received += chunk
        reply = read_reply(self._received)
        if reply is None:
            return None
        self.is_over = reply.closes
        return self._answer(reply)

    def _answer(self, reply: Reply) -> Answer:
        now = time.perf_counter()
        return Answer(self._number, self._sent, now, reply.status, reply.body)


def http_request(method: str, path: str, body: object = None) -> bytes:
    """Write a request with a JSON body, or with none."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def read_reply(received: bytes) -> Reply | None:
    """Return an answer, or None while some of it is still to come.

    Raises:
        LoadError: It does not tell its length.
    """
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    length = LENGTH.search(head)
    if not length:
        raise LoadError(f"an answer without Content-Length: {head!r}")
    if len(body) < int(length[1]):
        return None
    return Reply(int(head.split(b" ", 2)[1]), body, CLOSES.search(head) is not None)


def closed_loop(port: int, requests: Iterator[bytes], clients: int) -> Iterator[Answer]:
    """Send requests until there are no more; yields what becomes of each, as it comes.

    Whoever takes long between two answers makes the clients wait: keep them, and look into them
    afterwards.

    Args:
        port: Of this machine.
        requests: Whole HTTP requests; the next one is taken when a client is free.
        clients: Requests under way at the same time.

    Raises:
        LoadError: No answer comes at all any more, or one that is no HTTP.
        OSError: Nothing listens at the port.
    """
    numbered = enumerate(requests)
    with selectors.DefaultSelector() as busy, contextlib.ExitStack() as connections:
        for number, request in itertools.islice(numbered, clients):
            client = Client(port)
            connections.callback(client.close)
            busy.register(client.socket, selectors.EVENT_READ, client)
            client.send(request, number)
        while busy.get_map():
            ready = busy.select(STALLED_S)
            if not ready:
                raise LoadError(f"no answer within {STALLED_S} s")
            for key, _ in ready:
                if answer := key.data.receive():
                    yield answer
                    _go_on(key.data, next(numbered, None), busy)


def _go_on(client: Client, request: tuple[int, bytes] | None, busy: selectors.BaseSelector) -> None:
    if request is None:
        busy.unregister(client.socket)
        return
    if client.is_over:
        busy.unregister(client.socket)
        client.close()
        client.connect()
        busy.register(client.socket, selectors.EVENT_READ, client)
    client.send(request[1], request[0])
