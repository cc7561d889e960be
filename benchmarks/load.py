"""Timed runs of a closed loop of clients, and what its answers have to be."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from figures import Run
from heliograph.load import LoadError, closed_loop


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


def run_load(load: Load) -> Outcome:
    """Send the load and count what comes back.

    Raises:
        LoadError: An answer is not what it has to be.
    """
    cpu, started = time.process_time(), time.perf_counter()
    answers = list(closed_loop(load.port, _requests(load), load.clients))
    ended = time.perf_counter()
    client_cpu = (time.process_time() - cpu) / (ended - started)
    tiers = Counter(tier_of(answer.good(), load.items) for answer in answers)
    if load.seconds is not None:
        started += load.warm_up_s
        ended = started + load.seconds
    counted = [answer for answer in answers if started <= answer.received <= ended]
    if not counted:
        raise LoadError(f"no answer within {load.seconds} s: measure for longer")
    latencies = np.array([answer.latency_ms for answer in counted])
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
