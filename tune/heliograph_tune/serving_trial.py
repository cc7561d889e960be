"""One setting of the running graph, under the load of real users.

The graph is run again with the drawn settings, and replicas to which they make no difference stay.
What users are told is judged as it is told: an answer of a lesser tier, or none, counts as it is.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from heliograph.catalog import Catalogue
from heliograph.config import DeploymentConfig, HeliographConfig, ServeConfig
from heliograph.evaluation import measure
from heliograph.index import NO_ITEM
from heliograph.load import OK, Answer, LoadError, closed_loop
from heliograph.workspace import InputError
from heliograph_serve.app import GraphArgs, app
from heliograph_serve.graph import wait_until_ready
from heliograph_serve.rank import Rank
from heliograph_serve.recommend import Recommend
from heliograph_serve.retrieve import Retrieve
from heliograph_tune.ending import SearchEndedError
from heliograph_tune.search_file import SECONDS, LoadConfig
from heliograph_tune.visitors import Visitors

DEPLOYMENTS = (Recommend, Retrieve, Rank)
ANSWER_TIMEOUT_S = 10.0
READY_S = "ready_s"
"""Seconds until the graph answered with the drawn settings."""


@dataclass(frozen=True)
class Place:
    """Where the graph of a search runs."""

    bundle: Path
    """Fitted on training events, with the visitors as its users."""

    port: int
    name: str
    """Of the application."""


def judge_serving(
    place: Place,
    visitors: Visitors,
    load: LoadConfig,
    config: HeliographConfig,
    catalogue: Catalogue,
    ks: tuple[int, ...],
) -> dict[str, float]:
    """Return what users get from the graph, and what it costs.

    Args:
        place: Where the graph runs.
        visitors: Who asks.
        load: How many at once, for how long.
        config: What was drawn; its seed decides in which order users come.
        catalogue: Of the bundle.
        ks: Cut-offs of the metrics; the deepest is what users ask for.

    Raises:
        InputError: The replicas do not fit into the cluster.
        LoadError: No request was answered.
    """
    began = time.perf_counter()
    run_graph(place, config)
    ready_s = time.perf_counter() - began
    n = max(ks)
    order = np.random.default_rng(config.seed).permutation(len(visitors.targets)).tolist()
    for _ in closed_loop(place.port, visitors.warm_up(order, n), load.clients):
        pass
    used, started = processor_s(place.name), time.perf_counter()
    requests = visitors.measured(order, n, load.seconds)
    answers = list(closed_loop(place.port, requests, load.clients))
    seconds = time.perf_counter() - started
    cost = spent(used, processor_s(place.name))
    ranking = ranking_of(answers, order, catalogue, n)
    return (
        measure(ranking, visitors.targets, ks, len(catalogue))
        | figures(answers, seconds, cost)
        | {READY_S: ready_s, SECONDS: time.perf_counter() - began}
    )


def run_graph(place: Place, config: HeliographConfig) -> None:
    """Run the graph with other settings, and return when every stage of it answers.

    Raises:
        InputError: The replicas do not fit into the cluster.
        SearchEndedError: Serve has been ended.
    """
    if not serve.status().proxies:
        raise SearchEndedError("Serve has been ended, and the search with it; go on with --resume")
    settings = as_measured(config.serve, place.port)
    require_room(settings)
    arguments = GraphArgs(
        bundle=place.bundle,
        serve=settings,
        index=config.index,
        candidates=config.candidates,
        name=place.name,
    )
    serve.run(app(arguments), name=place.name, route_prefix="/")
    wait_until_ready(f"http://{settings.host}:{settings.port}")


def as_measured(settings: ServeConfig, port: int) -> ServeConfig:
    """Return the settings as trials have them: on this machine alone, without a limit of a caller.

    Every deployment has all of its `max_replicas` from the start: a trial is too short for replicas
    to come and go. Events are kept beside the bundle of the search and nowhere else.
    """
    scaled = {
        name: _at_its_most(getattr(settings, name)) for name in ("recommend", "retrieve", "rank")
    }
    limits = settings.limits.model_copy(update={"requests_per_s": None})
    here = {"host": "127.0.0.1", "port": port, "keys": None, "store": None, "limits": limits}
    return settings.model_copy(update=here | {"open_to_network": False} | scaled)


def require_room(settings: ServeConfig) -> None:
    """Refuse replicas that Serve would wait for without an end.

    Raises:
        InputError: They do not fit into the cluster beside the trial itself.
    """
    scales = (settings.recommend, settings.retrieve, settings.rank)
    there, own = ray.cluster_resources(), ray.get_runtime_context().get_assigned_resources()
    for resource, field in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        wanted = sum(scale.max_replicas * getattr(scale, field) for scale in scales)
        room = there.get(resource, 0.0) - own.get(resource, 0.0)
        if wanted > room:
            raise InputError(
                f"the replicas want {wanted:g} {resource}s, but beside the trial the Ray cluster "
                f"has {room:g}; lower max_replicas or {field}, or enlarge the cluster"
            )


def processor_s(name: str) -> dict[str, float]:
    """Return the processor seconds that each replica of an application has taken."""
    return {
        replica: seconds
        for kind in DEPLOYMENTS
        for told in _handle(kind.__name__, name)
        .broadcast("processor_s")
        .results(timeout_s=ANSWER_TIMEOUT_S)
        for replica, seconds in told.items()
    }


def spent(before: dict[str, float], after: dict[str, float]) -> float:
    """Return the seconds between two readings; a replica that came meanwhile began with none."""
    return sum(seconds - before.get(replica, 0.0) for replica, seconds in after.items())


def ranking_of(
    answers: Sequence[Answer], order: Sequence[int], catalogue: Catalogue, n: int
) -> NDArray[np.int32]:
    """Return (users, n) item numbers of the first visit of each, -1 where no item came.

    Args:
        answers: The first one for each user is of the whole history.
        order: In which users came.
        catalogue: Knows the numbers of items.
        n: Items that were asked for.
    """
    ranking = np.full((len(order), n), NO_ITEM, np.int32)
    for answer in answers:
        if answer.number < len(order) and answer.status == OK:
            items = [catalogue.row_of[item["item_id"]] for item in _told(answer)["items"]]
            ranking[order[answer.number], : len(items)] = items
    return ranking


def figures(answers: Sequence[Answer], seconds: float, cost: float) -> dict[str, float]:
    """Return latencies, rate, shares and cost.

    Args:
        answers: Of all requests.
        seconds: In which they were sent and answered.
        cost: Processor seconds of the replicas meanwhile.

    Raises:
        LoadError: No request was answered.
    """
    good = [answer for answer in answers if answer.status == OK]
    if not good:
        raise LoadError(f"none of {len(answers)} requests was answered: {answers[-1].body!r}")
    latencies = np.array([answer.latency_ms for answer in good])
    tiers = Counter(_told(answer)["tier"] for answer in good)
    return {
        "p50_ms": float(np.percentile(latencies, 50)),
        "p95_ms": float(np.percentile(latencies, 95)),
        "p99_ms": float(np.percentile(latencies, 99)),
        "requests_per_s": len(good) / seconds,
        "failed": 1 - len(good) / len(answers),
        "cost": 1000 * cost / len(good),
        **{tier: tiers[tier] / len(good) for tier in ("generative", "retrieval", "popular")},
    }


@cache
def _handle(deployment: str, name: str) -> DeploymentHandle[object]:
    """Return a handle that may be used outside of an event loop; a process has few of them."""
    handle = serve.get_deployment_handle(deployment, name)
    handle._init(_run_router_in_separate_loop=True)
    return handle


def _at_its_most(scale: DeploymentConfig) -> DeploymentConfig:
    return scale.model_copy(update={"min_replicas": scale.max_replicas})


def _told(answer: Answer) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads(answer.body))
