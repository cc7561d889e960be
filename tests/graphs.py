"""Graphs that tests start, and what they ask them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from heliograph.bundle import Bundle
from heliograph.config import DeploymentConfig
from heliograph_serve.graph import require_free_port, running_graph
from processes import free_port

Answer = dict[str, Any]

ENOUGH_FOR_BOTH = 12
"""Requests after which both replicas of the ingress have answered some."""


@dataclass(frozen=True)
class SharedGraph:
    """A running graph that the tests of several files use, one file after the other."""

    url: str
    bundle: Bundle
    """With which it was started; tests put others beside it."""


@contextmanager
def serving(bundle: Bundle, **settings: Any) -> Iterator[str]:
    """Run the graph of a bundle, at a port that is free afterwards; yields its URL.

    Args:
        bundle: To be served.
        settings: Changes to its `serve` section.
    """
    port = free_port()
    served = bundle.config.serve.model_copy(update={"port": port, "deadline_ms": 5000.0} | settings)
    with running_graph(bundle.folder, served) as url:
        yield url
    require_free_port(served.host, port)


def two_replicas(bundle: Bundle) -> DeploymentConfig:
    """Return the settings of a deployment that always has two."""
    return bundle.config.serve.recommend.model_copy(update={"min_replicas": 2, "max_replicas": 2})


def ask(url: str, **request: Any) -> Answer:
    reply = httpx.post(f"{url}/v1/recommendations", json=request, timeout=30)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def refusal(url: str, **request: Any) -> tuple[int, Answer]:
    reply = httpx.post(f"{url}/v1/recommendations", json=request, timeout=30)
    return reply.status_code, reply.json()["error"]


def ids(answer: Answer) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def sums(answer: Answer) -> list[float]:
    """Return what the reasons for each item of an explained answer add up to."""
    return [
        item["base"] + sum(reason["nats"] for reason in item["reasons"]) for item in answer["items"]
    ]
