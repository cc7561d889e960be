"""The graph over HTTP, and a Serve deployment that does nothing, under the same load."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from ray import serve
from ray.serve.config import HTTPOptions

from figures import Plan, Run, Row, repeat
from heliograph.bundle import open_bundle
from heliograph.cluster import ray_cluster
from heliograph.config import DeploymentConfig, ServeConfig
from heliograph_serve.app import _deployment
from heliograph_serve.graph import running_graph
from isolation import isolated
from load import Load, Outcome, http_request, run_load
from memory import memory_gib
from ratios import FIRST_VISIT, GRAPH, NOOP
from workload import users_of

NOOP_CLIENTS = (1, 16, 32)
GRAPH_CLIENTS = (1, 8, 16, 32)
ITEMS_WANTED = 10
DEADLINE_MS = 5000.0
"""High, so that overload shows as latency instead of as a cheaper tier."""

WARM_UP = 0.2
"""Share of a run's time that goes before it."""

MIN_GENERATIVE = 0.99
START_S = 60.0
"""More than the load generator needs to start and to look through the answers."""

http = FastAPI()


@http.get("/noop")
async def noop() -> dict[str, bool]:
    """Answer at once."""
    return {"ok": True}


class Noop:
    """The least that Ray Serve does for a request."""


def measure_noop(plan: Plan) -> list[Row]:
    """Measure what HTTP and Ray Serve cost."""
    settings = open_bundle(plan.bundle).config.serve
    requests = [http_request("GET", "/noop")]
    with _running_noop(settings) as port:
        return [
            _level(plan, NOOP, Load(port, requests, clients, plan.seconds))
            for clients in NOOP_CLIENTS
        ]


def measure_graph(plan: Plan) -> list[Row]:
    """Measure the whole graph: every user once, then the same users again; and its memory."""
    bundle = open_bundle(plan.bundle)
    settings = bundle.config.serve.model_copy(update={"port": _free_port()})
    requests = [_recommendation(user.id) for user in users_of(bundle)]
    rows, peak = [], Counter[str]()
    with running_graph(bundle.folder, settings):
        first = Load(settings.port, requests, GRAPH_CLIENTS[-1], None, items=ITEMS_WANTED)
        loads = [
            first,
            *(
                Load(settings.port, requests, clients, plan.seconds, items=ITEMS_WANTED)
                for clients in GRAPH_CLIENTS
            ),
        ]
        for load in loads:
            rows.append(_level(plan, GRAPH, load))
            peak = max(peak, memory_gib(), key=Counter.total)
    return rows
