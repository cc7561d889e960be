"""What the event store costs: a commit for each request, a commit for many, a look-up.

python benchmarks/event_store.py [URL]     # default: SQLite in a temporary folder
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

from heliograph.config import ServeConfig
from heliograph.event_store.event import Event
from heliograph.event_store.store import Appended, EventStore, Heard
from heliograph_serve.feedback import REQUESTS_A_COMMIT
from heliograph_serve.stage import Stage

REQUESTS = 3000
CLIENTS = 64
USERS = 200


def some_event(number: int) -> Event:
    """Return a new event of one of the users."""
    user = f"user-{number % USERS}"
    return Event(uuid.uuid4().hex, user, f"item-{number}", number, "view", None)


async def load(
    clients: int, requests: int, ask: Callable[[int], Awaitable[object]]
) -> tuple[float, float]:
    """Return requests a second and the median milliseconds of one, from clients at once."""
    left, times = iter(range(requests)), []

    async def client() -> None:
        for number in left:
            started = time.perf_counter()
            await ask(number)
            times.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return requests / (time.perf_counter() - started), 1000 * statistics.median(times)


async def measure(url: str) -> None:
    """Print the figures of the store at a URL."""
    store = EventStore(url)
    await store.ready()
    events: Stage[Sequence[Event], Appended] = Stage("events", store.append, REQUESTS_A_COMMIT)
    history: Stage[str, Heard] = Stage("history", store.heard, ServeConfig().max_batch_size)

    async def alone(number: int) -> object:
        return await store.append([[some_event(number)]])

    async def together(number: int) -> object:
        return await events.ask([some_event(number)], 5)

    async def thousand(number: int) -> object:
        return await events.ask([some_event(place) for place in range(1000)], 5)

    async def look_up(number: int) -> object:
        return await history.ask(f"user-{number % USERS}", 5)

    for name, clients, requests, ask in (
        ("a commit for each event, 1 client", 1, REQUESTS // 4, alone),
        (f"a commit for each event, {CLIENTS} clients", CLIENTS, REQUESTS // 4, alone),
        ("a commit for many, 1 client", 1, REQUESTS // 4, together),
        (f"a commit for many, {CLIENTS} clients", CLIENTS, REQUESTS, together),
        ("a thousand events a request, 1 client", 1, 20, thousand),
        ("a look-up, 1 client", 1, REQUESTS, look_up),
        (f"a look-up, {CLIENTS} clients", CLIENTS, REQUESTS, look_up),
    ):
        rate, median = await load(clients, requests, ask)
        print(f"{name:45} {rate:9.0f} requests/s   p50 {median:7.2f} ms")
    await store.close()


def main() -> None:
    """Measure the store whose URL is given, or a new one."""
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{folder}/events.sqlite"
        asyncio.run(measure(url))


if __name__ == "__main__":
    main()
