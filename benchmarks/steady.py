"""The graph at half of its peak load, and its memory over many requests.

    python benchmarks/steady.py [BUNDLE] [--seconds 20] [--requests 30000]

First clients without a pause find the peak. Then requests leave at half that rate, each at its own
time whatever became of those before it, and their latency counts from that time. At last the
requests that the memory is watched over, without a pause again.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import selectors
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graph import recommendation_request
from heliograph.bundle import open_bundle
from heliograph.load import STALLED_S, Answer, Client, LoadError, closed_loop
from heliograph.workspace import write_json
from heliograph_serve.graph import running_graph
from isolation import isolated
from levels import free_port
from machine import describe_machine
from memory import memory_gib
from workload import users_of

ROOT = Path(__file__).resolve().parent.parent
PEAK_CLIENTS = 128
SAMPLES = 6
"""Times that the memory is looked at while the requests go on."""

WARM_UP_REQUESTS = 5_000
"""Caches are full and allocators have found their size by then."""


@dataclass(frozen=True)
class Paced:
    """What requests at a given rate saw."""

    latencies_ms: list[float]
    """From when each was due, in the order of the answers."""

    tiers: Counter[str]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    bundles = ROOT / "examples" / "movielens" / "workspace" / "bundles"
    parser.add_argument("bundle", type=Path, nargs="?", default=bundles)
    parser.add_argument("--seconds", type=float, default=20, help="of each of the two loads")
    parser.add_argument("--requests", type=int, default=30_000, help="to watch the memory over")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "steady.json")
    arguments = parser.parse_args()
    found = describe_machine() | measure(arguments.bundle, arguments.seconds, arguments.requests)
    print(json.dumps(found, indent=1))
    write_json(arguments.out, found)


def measure(folder: Path, seconds: float, requests: int) -> dict[str, object]:
    """Return the figures of one graph."""
    bundle = open_bundle(folder)
    settings = bundle.config.serve.model_copy(update={"port": free_port()})
    asked = [recommendation_request(user.id) for user in users_of(bundle)]
    timeout_s = 600 + 2 * seconds
    with running_graph(bundle.folder, settings):
        isolated(timeout_s, answered, settings.port, asked, WARM_UP_REQUESTS)
        peak = isolated(timeout_s, peak_rate, settings.port, asked, seconds)
        half = isolated(timeout_s, paced, settings.port, asked, peak / 2, seconds)
        memory = [sum(memory_gib().values())]
        for _ in range(SAMPLES):
            isolated(timeout_s, answered, settings.port, asked, requests // SAMPLES)
            memory.append(sum(memory_gib().values()))
    p50, p95, p99 = (float(np.percentile(half.latencies_ms, q)) for q in (50, 95, 99))
    return {
        "peak_requests_s": peak,
        "half_peak_requests_s": peak / 2,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "p99_over_p50": p99 / p50,
        "tiers": dict(half.tiers),
        "memory_gib": [round(size, 3) for size in memory],
        "memory_over_requests": requests // SAMPLES * SAMPLES,
        "memory_growth_mib": (memory[-1] - memory[0]) * 1024,
    }


def peak_rate(port: int, requests: list[bytes], seconds: float) -> float:
    """Return the answers a second that clients get who never pause."""
    end = time.perf_counter() + seconds
    endless = itertools.takewhile(lambda _: time.perf_counter() < end, itertools.cycle(requests))
    return sum(1 for answer in closed_loop(port, endless, PEAK_CLIENTS) if answer.good()) / seconds


def answered(port: int, requests: list[bytes], count: int) -> None:
    """Send so many requests and look that each has a good answer."""
    for answer in closed_loop(
        port, itertools.islice(itertools.cycle(requests), count), PEAK_CLIENTS
    ):
        answer.good()


def paced(port: int, requests: list[bytes], rate: float, seconds: float) -> Paced:
    """Send requests at a rate, and wait for the last answer.

    Raises:
        LoadError: An answer is not good, or none comes any more.
    """
    found = Paced([], Counter())
    start = time.perf_counter()
    for answer in open_loop(port, requests, rate, int(rate * seconds)):
        due = start + answer.number / rate
        found.latencies_ms.append((answer.received - due) * 1000)
        found.tiers[json.loads(answer.good())["tier"]] += 1
    return found


def open_loop(port: int, requests: list[bytes], rate: float, count: int) -> Iterator[Answer]:
    """Send request n at n / rate seconds; yields the answers as they come."""
    start, sent = time.perf_counter(), 0
    idle: list[Client] = []
    with selectors.DefaultSelector() as busy, contextlib.ExitStack() as connections:
        while sent < count or busy.get_map():
            while sent < count and start + sent / rate <= time.perf_counter():
                client = idle.pop() if idle else _connected(port, connections)
                client.send(requests[sent % len(requests)], sent)
                busy.register(client.socket, selectors.EVENT_READ, client)
                sent += 1
            next_s = start + sent / rate - time.perf_counter()
            ready = busy.select(max(0.0, next_s) if sent < count else STALLED_S)
            if not ready and sent == count:
                raise LoadError(f"no answer within {STALLED_S} s")
            for key, _ in ready:
                if answer := key.data.receive():
                    busy.unregister(key.fileobj)
                    idle.append(key.data)
                    yield answer


def _connected(port: int, connections: contextlib.ExitStack) -> Client:
    client = Client(port)
    connections.callback(client.close)
    return client


if __name__ == "__main__":  # every process that is started from here imports this file again
    main()
