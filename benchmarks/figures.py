"""Timings -> the figures of a row: requests a second and percentiles of the median run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

REQUESTS = "requests/s"
ITEMS = "items/s"
LOWEST = "lowest"
HIGHEST = "highest"
PERCENTILES = {"p50 ms": 50, "p95 ms": 95, "p99 ms": 99}
P50 = "p50 ms"


@dataclass(frozen=True)
class Plan:
    """What all measurements share."""

    bundle: Path
    seconds: float
    """Of one run, after its warm-up."""

    texts: int | None
    """Texts to embed; None: the whole catalogue."""


@dataclass(frozen=True)
class Run:
    """One timed run of calls, each of which answers one or more requests."""

    latencies_ms: NDArray[np.float64]
    """(calls,) time of each call."""

    requests: int
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


@dataclass(frozen=True)
class Row:
    """One line of the results."""

    group: str
    name: str
    figures: dict[str, float]
    note: str = ""


def row_of(group: str, name: str, run: Run) -> Row:
    """Tell the figures of a run and return them."""
    row = Row(group, name, {REQUESTS: run.rate} | percentiles(run))
    tell(group, name, row.figures)
    return row


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """Return the figures of the median run by rate, and the rates of the slowest and fastest."""
    ordered = sorted(runs, key=lambda run: run.rate)
    median = ordered[(len(ordered) - 1) // 2]  # of an even number the slower one
    spread = {LOWEST: ordered[0].rate, HIGHEST: ordered[-1].rate}
    return {REQUESTS: median.rate} | percentiles(median) | spread


def percentiles(run: Run) -> dict[str, float]:
    """Return p50, p95 and p99 of the calls of a run."""
    return {
        name: float(np.percentile(run.latencies_ms, percent))
        for name, percent in PERCENTILES.items()
    }


def timed(
    calls: Sequence[Callable[[], object]], requests_a_call: int, seconds: float | None
) -> Run:
    """Make the calls round and round until the time is over, or each once; at least one."""
    latencies: list[float] = []
    started = before = time.perf_counter()
    while not latencies or (
        len(latencies) < len(calls) if seconds is None else before - started < seconds
    ):
        calls[len(latencies) % len(calls)]()
        after = time.perf_counter()
        latencies.append((after - before) * 1000)
        before = after
    return Run(np.array(latencies), requests_a_call * len(latencies), before - started)


def tell(group: str, name: str, figures: dict[str, float]) -> None:
    """Print one line of progress."""
    shown = "  ".join(f"{key} {number(value)}" for key, value in figures.items())
    print(f"{group}: {name:<62} {shown}", flush=True)


def number(value: float) -> str:
    """Write three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"
