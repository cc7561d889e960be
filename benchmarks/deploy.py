"""What a deployment does to requests under constant load.

    python benchmarks/deploy.py BUNDLE_A BUNDLE_B [--clients 8]

Both bundles lie in one folder. Clients ask without a pause; after a while B is deployed, then the
graph goes back to A. A gap is a time in which no client gets an answer.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graph import DEADLINE_MS
from heliograph.bundle import Bundle, open_bundle
from heliograph.client import deploy, deployments, rollback
from heliograph.workspace import InputError
from heliograph_serve.graph import running_graph
from levels import free_port
from load import Client, LoadError, http_request
from memory import memory_gib
from workload import ITEMS, users_of

CALM_S = 20.0
"""Before, between and after what is measured."""


@dataclass(frozen=True)
class Seen:
    """One answer."""

    sent: float
    received: float
    bundle: str
    tier: str


class Load:
    """Clients that ask without a pause until they are stopped; every answer is looked into."""

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle_a", type=Path)
    parser.add_argument("bundle_b", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    old, new = open_bundle(arguments.bundle_a), open_bundle(arguments.bundle_b)
    if old.folder.parent != new.folder.parent:
        raise InputError("the bundles do not lie in one folder; copy one beside the other")
    measure(old, new, arguments.clients)


def measure(old: Bundle, new: Bundle, clients: int) -> None:
    """Serve one bundle, deploy the other, roll back; print what clients saw."""
    settings = old.config.serve.model_copy(update={"port": free_port()})
    with running_graph(old.folder, settings) as url:
        load = Load(settings.port, [user.id for user in users_of(old)], clients)
        marks = []
        with load.running():
            time.sleep(CALM_S)  # candidates and prefixes are remembered by then
            print(f"memory, one bundle   {sum(memory_gib().values()):6.2f} GiB")
            marks.append(time.perf_counter())
            time.sleep(CALM_S)
            marks.append(time.perf_counter())
            deploy(url, new.id, keep_previous=True)
            wait(url)
            marks.append(time.perf_counter())
            time.sleep(CALM_S)
            marks.append(time.perf_counter())
            print(f"memory, two bundles  {sum(memory_gib().values()):6.2f} GiB")
            marks.append(time.perf_counter())
            rollback(url)
            wait(url)
            marks.append(time.perf_counter())
            time.sleep(CALM_S)
            marks.append(time.perf_counter())
    phases = {
        "before": marks[0:2],
        "deploying": marks[1:3],
        "after": marks[2:4],
        "rolling back": marks[4:6],
        "after that": marks[5:7],
    }
    for name, (began, ended) in phases.items():
        print(line(name, load.seen, began, ended))
    tiers = sorted({seen.tier for seen in load.seen})
    print(f"{len(load.seen)} answers, tiers {', '.join(tiers)}; {len(load.failures)} failed")


def wait(url: str) -> None:
    """Return when a deployment is over.

    Raises:
        LoadError: It failed.
    """
    while True:
        progress = deployments(url)["progress"]
        if progress["step"] == "failed":
            raise LoadError(progress["error"])
        if progress["step"] == "done":
            print(f"{progress['action']}: {progress['seconds']}")
            return
        time.sleep(0.2)


def line(name: str, seen: list[Seen], began: float, ended: float) -> str:
    """Say what clients saw from one moment to another: latencies in ms, the longest gap."""
    inside = [one for one in seen if began <= one.received <= ended]
    latencies = np.array([one.received - one.sent for one in inside]) * 1000
    moments = np.sort([began, *(one.received for one in inside), ended])
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    return (
        f"{name:<13} {ended - began:6.1f} s {len(inside) / (ended - began):7.1f}/s   p50 {p50:6.1f}"
        f"   p95 {p95:6.1f}   p99 {p99:6.1f}   max {latencies.max():7.1f}"
        f"   longest gap {np.diff(moments).max() * 1000:7.1f} ms"
    )


if __name__ == "__main__":
    main()
