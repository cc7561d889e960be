"""Clients that ask without a pause until they are stopped, and keep what they saw."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from graph import DEADLINE_MS
from heliograph.load import Client, LoadError, http_request
from workload import ITEMS

RECONNECT_S = 0.05
"""A client whose request failed waits for so long, as clients do."""


@dataclass(frozen=True)
class Seen:
    """One answer."""

    sent: float
    received: float
    bundle: str
    tier: str

    @property
    def latency_ms(self) -> float:
        """From the request to the answer."""
        return (self.received - self.sent) * 1000


@dataclass(frozen=True)
class Failure:
    """One request without a good answer."""

    moment: float
    reason: str


class ConstantLoad:
    """A thread for each client; every answer is looked into."""

    def __init__(self, port: int, users: list[str], clients: int) -> None:
        self.seen: list[Seen] = []
        self.failures: list[Failure] = []
        self._port = port
        self._stop = threading.Event()
        requests = [
            http_request(
                "POST",
                "/v1/recommendations",
                {"user_id": user, "n": ITEMS, "deadline_ms": DEADLINE_MS},
            )
            for user in users
        ]
        self._threads = [
            threading.Thread(target=self._ask, args=(requests[first::clients],))
            for first in range(clients)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask for as long as the block runs.

        Garbage is not collected meanwhile: it takes Python a quarter of a second once there are
        tens of thousands of answers, no client asks by then, and it would look like a gap of the
        graph.
        """
        gc.disable()
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
            gc.enable()

    def _ask(self, requests: list[bytes]) -> None:
        client: Client | None = None
        number = 0
        while not self._stop.is_set():
            try:
                client = client or Client(self._port)
                self.seen.append(_answer(client, requests[number % len(requests)]))
                if client.is_over:  # the server said so: it ends this connection, or it is leaving
                    client.close()
                    client = None
            except (LoadError, OSError) as error:
                self.failures.append(Failure(time.perf_counter(), repr(error)))
                client = None
                time.sleep(RECONNECT_S)
            number += 1


def _answer(client: Client, request: bytes) -> Seen:
    client.send(request)
    while (answer := client.receive()) is None:
        pass
    told = json.loads(answer.good())
    if len(told["items"]) != ITEMS:
        raise LoadError(f"{len(told['items'])} items instead of {ITEMS}")
    return Seen(answer.sent, answer.received, told["bundle"], told["tier"])
