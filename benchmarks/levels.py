"""One endpoint under a closed loop of a number of clients."""

from __future__ import annotations

import socket
from collections import Counter

from figures import Plan, Row, row_of
from isolation import isolated
from load import Load, run_load

WARM_UP = 0.2
"""Share of a run's time that goes before it."""

AROUND_RUN_S = 120.0
"""What a run may take beside its time: the client's start, the last answers, the look at them."""

GENERATIVE = "generative %"
CLIENT_CPU = "client CPU %"
MIN_GENERATIVE = 99.0


def measure_level(
    plan: Plan, group: str, port: int, requests: list[bytes], clients: int, items: int | None = None
) -> Row:
    """Send requests round and round, after a warm-up."""
    load = Load(port, requests, clients, plan.seconds, WARM_UP * plan.seconds, items)
    return _row(group, "1 client" if clients == 1 else f"{clients} clients", load)


def measure_first_visit(
    group: str, name: str, port: int, requests: list[bytes], clients: int, items: int
) -> Row:
    """Send every request once."""
    load = Load(port, requests, clients, None, items=items)
    return _row(group, f"{name}, {clients} clients", load)


def free_port() -> int:
    """Return a port that the system says is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _row(group: str, name: str, load: Load) -> Row:
    """Take a run, from a client process of its own."""
    outcome = isolated((load.seconds or 60.0) * 2 + AROUND_RUN_S, run_load, load)
    row = row_of(group, name, outcome.run)
    figures = row.figures | {CLIENT_CPU: 100 * outcome.client_cpu}
    if load.items is None:
        return Row(group, name, figures)
    generative = 100 * outcome.tiers["generative"] / outcome.tiers.total()
    return Row(group, name, figures | {GENERATIVE: generative}, tier_note(outcome.tiers))


def tier_note(tiers: Counter[str]) -> str:
    """Return a mark for a load of which too many answers are of a cheaper tier; else nothing."""
    if tiers["generative"] >= MIN_GENERATIVE / 100 * tiers.total():
        return ""
    counts = ", ".join(f"{count:,} {tier}" for tier, count in tiers.most_common())
    return f"NOT THE FULL GRAPH: {counts}"
