"""Clients that ask without a pause until they are stopped, and keep what they saw."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from graph import DEADLINE_MS
from load import Client, LoadError, http_request
from workload import ITEMS


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


class ConstantLoad:
    """A thread for each client; every answer is looked into."""

    def __init__(self, port: int, users: list[str], clients: int) -> None:
        self.seen: list[Seen] = []
        self.failures: list[str] = []
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
            threading.Thread(target=self._ask, args=(port, requests[first::clients]))
            for first in range(clients)
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask for as long as the block runs."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _ask(self, port: int, requests: list[bytes]) -> None:
        client, number = Client(port), 0
        while not self._stop.is_set():
            client.send(requests[number % len(requests)])
            number += 1
            try:
                while (answer := client.receive()) is None:
                    pass
                told = json.loads(answer.body)
                self.seen.append(Seen(answer.sent, answer.received, told["bundle"], told["tier"]))
                if len(told["items"]) != ITEMS:
                    self.failures.append(f"{len(told['items'])} items")
            except (LoadError, OSError) as error:
                self.failures.append(repr(error))
                client = Client(port)
