"""What a deployment does to requests under constant load.

    python benchmarks/deploy.py BUNDLE_A BUNDLE_B [--clients 8]

Both bundles lie in one folder. Clients ask without a pause; after a while B is deployed, then the
graph goes back to A. A gap is a time in which no client gets an answer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from constant_load import ConstantLoad, Seen
from heliograph.bundle import Bundle, open_bundle
from heliograph.client import deploy, deployments, rollback
from heliograph.load import LoadError
from heliograph.workspace import InputError
from heliograph_serve.graph import running_graph
from levels import free_port
from memory import memory_gib
from workload import users_of

CALM_S = 20.0
"""Before, between and after what is measured."""


def main() -> None:
    """Measure and print."""
    measure_two(__doc__, measure)


def measure_two(description: str | None, measure: Callable[[Bundle, Bundle, int], None]) -> None:
    """Read the command line of a benchmark of two bundles, and measure.

    Raises:
        InputError: They do not lie in one folder.
    """
    parser = argparse.ArgumentParser(description=description)
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
        load = ConstantLoad(settings.port, [user.id for user in users_of(old)], clients)
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
    limit_ms = 2 * Figures.of(load.seen, *phases["before"]).p95
    worst = max(phases, key=lambda name: Figures.of(load.seen, *phases[name]).longest_gap)
    gap_ms = Figures.of(load.seen, *phases[worst]).longest_gap
    print(f"longest gap {gap_ms:.1f} ms ({worst}); twice the p95 before is {limit_ms:.1f} ms")
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


@dataclass(frozen=True)
class Figures:
    """What clients saw from one moment to another, in ms."""

    rate: float
    p50: float
    p95: float
    p99: float
    longest: float
    longest_gap: float
    """Time without an answer for anybody."""

    @classmethod
    def of(cls, seen: list[Seen], began: float, ended: float) -> Self:
        """Take the answers between two moments."""
        inside = [one for one in seen if began <= one.received <= ended]
        latencies = np.array([one.latency_ms for one in inside])
        moments = np.sort([began, *(one.received for one in inside), ended])
        p50, p95, p99 = (float(np.percentile(latencies, q)) for q in (50, 95, 99))
        rate, gap = len(inside) / (ended - began), float(np.diff(moments).max()) * 1000
        return cls(rate, p50, p95, p99, float(latencies.max()), gap)


def line(name: str, seen: list[Seen], began: float, ended: float) -> str:
    """Say what clients saw from one moment to another."""
    found = Figures.of(seen, began, ended)
    return (
        f"{name:<13} {ended - began:6.1f} s {found.rate:7.1f}/s   p50 {found.p50:6.1f}   "
        f"p95 {found.p95:6.1f}   p99 {found.p99:6.1f}   max {found.longest:7.1f}   "
        f"longest gap {found.longest_gap:7.1f} ms"
    )


if __name__ == "__main__":
    main()
