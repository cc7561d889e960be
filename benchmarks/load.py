"""A closed loop of HTTP clients in one thread: each sends its next request when it has the answer.

Blocking sockets and a selector, because on two cores the client must cost little: about 50 us of
CPU a request, where httpx takes about 1 ms. Answers are kept as they come and looked into when
the clock has stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from figures import Run

STALLED_S = 30.0
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class LoadError(RuntimeError):
    """An answer was not what it has to be: such a run measures nothing."""


@dataclass(frozen=True)
class Load:
    """What to send."""

    port: int
    requests: Sequence[bytes]
    """Whole HTTP requests; sent round and round."""

    clients: int
    seconds: float | None
    """How long; None: every request once."""

    warm_up_s: float = 0.0
    """Before `seconds`; its answers are checked but not counted."""

    items: int | None = None
    """Items that each answer must have; None: answers have no items."""


@dataclass(frozen=True)
class Outcome:
    """What came back."""

    run: Run
    tiers: Counter[str]
    """Answers, by what answered."""

    client_cpu: float
    """Share of one core that the clients took."""


@dataclass(frozen=True)
class Answer:
    """One answer with status 200."""

    sent: float
    received: float
    body: bytes


class Client:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=STALLED_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.sent = 0.0

    def send(self, request: bytes) -> None:
        """Send a request; the answer to the last one has been received."""
        self.received = b""
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> Answer | None:
        """Read what has come; return the answer once it is whole."""
        chunk = self.socket.recv(1 << 16)
        if not chunk:
            raise LoadError(f"the server hung up after {self.received!r}")
        self.received += chunk
        body = body_of(self.received)
        return None if body is None else Answer(self.sent, time.perf_counter(), body)


def http_request(method: str, path: str, body: object = None) -> bytes:
    """Write a request with a JSON body, or with none."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def body_of(received: bytes) -> bytes | None:
    """Return the body of an answer, or None while some of it is still to come.

    Raises:
        LoadError: The status is not 200, or the answer does not tell its length.
    """
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    length = LENGTH.search(head)
    if not length:
        raise LoadError(f"an answer without Content-Length: {head!r}")
    if len(body) < int(length[1]):
        return None
    if head.split(b" ", 2)[1] != b"200":
        raise LoadError(f"not status 200: {head.splitlines()[0]!r} {body!r}")
    return body


def run_load(load: Load) -> Outcome:
    """Send the load and count what comes back."""
    cpu, started = time.process_time(), time.perf_counter()
    answers = _closed_loop(load)
    ended = time.perf_counter()
    client_cpu = (time.process_time() - cpu) / (ended - started)
    tiers = Counter(tier_of(answer.body, load.items) for answer in answers)
    if load.seconds is not None:
        started += load.warm_up_s
        ended = started + load.seconds
    counted = [answer for answer in answers if started <= answer.received <= ended]
    if not counted:
        raise LoadError(f"no answer within {load.seconds} s: measure for longer")
    latencies = np.array([answer.received - answer.sent for answer in counted]) * 1000
    return Outcome(Run(latencies, len(counted), ended - started), tiers, client_cpu)


def tier_of(body: bytes, items: int | None) -> str:
    """Return which tier answered.

    Raises:
        LoadError: It is not an answer with that many items.
    """
    answer = json.loads(body)
    if items is None:
        return "no-op"
    if len(answer["items"]) != items:
        raise LoadError(f"expected {items} items, got {body!r}")
    return str(answer["tier"])


def _closed_loop(load: Load) -> list[Answer]:
    answers: list[Answer] = []
    requests = _requests(load)
    with selectors.DefaultSelector() as busy, contextlib.ExitStack() as connections:
        for request in itertools.islice(requests, load.clients):
            client = Client(load.port)
            connections.callback(client.socket.close)
            busy.register(client.socket, selectors.EVENT_READ, client)
            client.send(request)
        while busy.get_map():
            ready = busy.select(STALLED_S)
            if not ready:
                raise LoadError(f"no answer within {STALLED_S} s")
            for key, _ in ready:
                if answer := key.data.receive():
                    answers.append(answer)
                    _go_on(key.data, next(requests, None), busy)
    return answers


def _go_on(client: Client, request: bytes | None, busy: selectors.BaseSelector) -> None:
    if request is None:
        busy.unregister(client.socket)
    else:
        client.send(request)


def _requests(load: Load) -> Iterator[bytes]:
    """Yield requests until the time is over, or each once."""
    if load.seconds is None:
        yield from load.requests
        return
    end = time.perf_counter() + load.warm_up_s + load.seconds
    for request in itertools.cycle(load.requests):
        if time.perf_counter() > end:
            return
        yield request
