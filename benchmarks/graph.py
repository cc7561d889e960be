"""The whole graph over HTTP, as `heliograph serve` runs it, and its memory."""

from __future__ import annotations

from figures import Plan, Row, tell
from heliograph.bundle import open_bundle
from heliograph.load import http_request
from heliograph_serve.graph import running_graph
from levels import free_port, measure_first_visit, measure_level
from memory import memory_gib
from ratios import FIRST_VISIT, GRAPH
from workload import ITEMS, users_of

CLIENTS = (1, 8, 16, 32, 64, 128, 256)
FIRST_VISIT_CLIENTS = 64
"""Every user comes once, which is soon over: more clients would measure the start."""

DEADLINE_MS = 5000.0
"""High, so that overload shows as latency instead of as a cheaper tier."""


def measure_graph(plan: Plan) -> list[Row]:
    """Measure every user once, then the same users again; note the memory after each load."""
    bundle = open_bundle(plan.bundle)
    settings = bundle.config.serve.model_copy(update={"port": free_port()})
    requests = [recommendation_request(user.id) for user in users_of(bundle)]
    port = settings.port
    with running_graph(bundle.folder, settings):
        rows = [measure_first_visit(GRAPH, FIRST_VISIT, port, requests, FIRST_VISIT_CLIENTS, ITEMS)]
        sizes = [memory_gib()]
        for clients in CLIENTS:
            rows.append(measure_level(plan, GRAPH, port, requests, clients, ITEMS))
            sizes.append(memory_gib())
    return [*rows, _memory(max(sizes, key=lambda size: sum(size.values())))]


def recommendation_request(user_id: str) -> bytes:
    wanted = {"user_id": user_id, "n": ITEMS, "deadline_ms": DEADLINE_MS}
    return http_request("POST", "/v1/recommendations", wanted)


def _memory(peak: dict[str, float]) -> Row:
    figures = {"all, GiB": sum(peak.values())} | {
        f"{name}, GiB": peak[name] for name in sorted(peak)
    }
    row = Row("memory of the running graph", "peak, shared pages counted once", figures)
    tell(row.group, row.name, row.figures)
    return row
