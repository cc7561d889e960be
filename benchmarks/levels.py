"""One endpoint under a closed loop of a number of clients, several times over."""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass, field

from figures import Plan, Row, Run, repeat
from isolation import isolated
from load import Load, run_load

WARM_UP = 0.2
"""Share of a run's time that goes before it."""

AROUND_RUN_S = 120.0
"""What a run may take beside its time: the client's start, the last answers, the look at them."""

GENERATIVE = "generative %"
CLIENT_CPU = "client CPU %"
MIN_GENERATIVE = 99.0


@dataclass
class Level:
    """The runs of one load, each from a client process of its own."""

    load: Load
    tiers: Counter[str] = field(default_factory=Counter)
    client_cpu: float = 0.0

    def run(self) -> Run:
        """Take one run."""
        outcome = isolated((self.load.seconds or 60.0) * 2 + AROUND_RUN_S, run_load, self.load)
        self.tiers += outcome.tiers
        self.client_cpu = max(self.client_cpu, outcome.client_cpu)
        return outcome.run


def measure_level(
    plan: Plan, group: str, port: int, requests: list[bytes], clients: int, items: int | None = None
) -> Row:
    """Send requests round and round, after a warm-up, and keep the median run."""
    load = Load(port, requests, clients, plan.seconds, WARM_UP * plan.seconds, items)
    name = "1 client" if clients == 1 else f"{clients} clients"
    return _row(group, name, Level(load), plan.repeats)


def measure_first_visit(
    group: str, name: str, port: int, requests: list[bytes], clients: int, items: int
) -> Row:
    """Send every request once."""
    load = Load(port, requests, clients, None, items=items)
    return _row(group, f"{name}, {clients} clients", Level(load), times=1)


def free_port() -> int:
    """Return a port that the system says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _row(group: str, name: str, level: Level, times: int) -> Row:
    row = repeat(group, name, times, level.run)
    figures = row.figures | {CLIENT_CPU: 100 * level.client_cpu}
    if level.load.items is None:
        return Row(group, name, figures)
    generative = 100 * level.tiers["generative"] / level.tiers.total()
    return Row(group, name, figures | {GENERATIVE: generative}, tier_note(level.tiers))


def tier_note(tiers: Counter[str]) -> str:
    """Return a mark for a load of which too many answers are of a cheaper tier; else nothing."""
    if tiers["generative"] >= MIN_GENERATIVE / 100 * tiers.total():
        return ""
    counts = ", ".join(f"{count:,} {tier}" for tier, count in tiers.most_common())
    return f"NOT THE FULL GRAPH: {counts}"
