"""Wires the graph: Recommend -> Retrieve -> Rank, with every deployment's options in one place."""

from __future__ import annotations

import uuid
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from heliograph.bundle import Bundle
from heliograph.config import (
    CandidatesConfig,
    Config,
    DeploymentConfig,
    IndexConfig,
    Rules,
    ServeConfig,
)
from heliograph.deployments import bundle_to_serve
from heliograph.rules import read_rules
from heliograph.workspace import InputError, digest_of
from heliograph_serve.autoscaling import autoscaling
from heliograph_serve.door import Door
from heliograph_serve.listening import keys_file, require_protection, running_host
from heliograph_serve.openapi import described
from heliograph_serve.rank import Rank
from heliograph_serve.recommend import Recommend, http
from heliograph_serve.retrieve import Retrieve
from heliograph_serve.rulebook import CONFIGURED
from heliograph_serve.shelf import Origin

APP_NAME = "heliograph"
BATCHES_IN_QUEUE = 64
"""Batches of all ingress replicas that a replica accepts at once."""

BY_LANE = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""A user's requests go to the replica that remembers the user's prompt (`lanes`)."""

REFUSALS_IN_PROGRESS = 1024
"""Requests beyond `serve.limits.under_way` that an ingress replica accepts at once, to refuse them
in our words; as many again wait for that, and the rest is refused by Serve."""


NOT_OF_RANK = {
    "deadline_ms",
    "batch_wait_ms",
    "limits",
    "rules",
    "recommend",
    "retrieve",
    "rank",
}
"""Settings that make no difference to a replica of the ranking deployment."""


class GraphArgs(Config):
    """Arguments of the application."""

    bundle: Path
    """A bundle, or a folder of bundles, of which the one deployed last is served, or else the
    newest. Every node must see it."""

    serve: ServeConfig | None = None
    """How to serve; default: as the bundle's configuration says."""

    index: IndexConfig | None = None
    """How the bundle's indexes are searched; default: as its configuration says. Of what type they
    are, and with which settings they were built, stays as it is there."""

    candidates: CandidatesConfig | None = None
    """How the bundle's sources propose; default: as its configuration says."""

    name: str | None = None
    """Of a graph that is run again and again with other settings: replicas to which these make no
    difference stay. Default: every replica starts anew."""


def app(args: GraphArgs) -> Application:
    """Build the graph. Named in serve_apps/recommend.yaml as `heliograph_serve.app:app`.

    Raises:
        InputError: The bundle is not whole, `index` asks for other indexes than it has,
            `serve.rules` do not fit its catalogue, or the endpoint would be open to the network
            without anybody having said so.
    """
    opened = bundle_to_serve(args.bundle)
    settings = args.serve or opened.config.serve
    if host := running_host():  # of a Serve that `serve deploy` uses; ours is checked before
        require_protection(settings, host, opened.folder.parent)
    if settings.rules != Rules():  # said here, where it can be read, not by a replica that dies
        read_rules(settings.rules, opened.catalogue().attributes, CONFIGURED)
    if args.index is not None:
        require_as_built(args.index, opened)
    graph = args.name or uuid.uuid4().hex
    origin = Origin(opened.folder, opened.id, graph, args.candidates, args.index)

    def deployment(kind: type, scale: DeploymentConfig, *decisive: str) -> serve.Deployment:
        version = digest_of(origin.graph, origin.first_id, *decisive) if args.name else None
        return _deployment(kind, scale, version)

    told = settings.model_dump_json(exclude={"recommend", "retrieve", "rank"})
    proposing = args.model_dump_json(include={"candidates", "index"})
    retrieve = deployment(Retrieve, settings.retrieve, proposing).bind(origin, settings)
    ranking = settings.model_dump_json(exclude=NOT_OF_RANK)
    rank = (
        deployment(Rank, settings.rank, ranking)
        .options(request_router_config={"request_router_class": BY_LANE})
        .bind(origin, settings)
    )
    guarded = behind_door(http, settings, opened.folder.parent)
    answering = serve.ingress(guarded)(Recommend)
    ingress = deployment(answering, settings.recommend, told, proposing).options(
        max_ongoing_requests=settings.limits.under_way + REFUSALS_IN_PROGRESS,
        max_queued_requests=REFUSALS_IN_PROGRESS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
    )
    return ingress.bind(origin, settings, retrieve, rank)


def require_as_built(index: IndexConfig, bundle: Bundle) -> None:
    """Refuse settings of a build, which a bundle has behind it.

    Raises:
        InputError: Another type of index, or one that is built otherwise.
    """
    theirs = bundle.config.index
    if index.built != theirs.built:
        raise InputError(
            f"bundle {bundle.folder} was built with index {theirs.built.model_dump_json()}, and "
            "where it is served only nprobe and ef_search can be others; repeat its settings, or "
            "build another bundle"
        )


def behind_door(routes: FastAPI, settings: ServeConfig, bundles: Path) -> FastAPI:
    """Put the door in front of the routes; pages of other origins knock before it."""
    door = Middleware(Door, settings=settings, keys=keys_file(settings, bundles))
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["authorization", "content-type"],
        expose_headers=["x-request-id", "retry-after"],
    )
    routes.openapi = partial(described, routes)  # type: ignore[method-assign]
    routes.user_middleware = [cors, door] if settings.cors_origins else [door]
    return routes


def _deployment(kind: type, settings: DeploymentConfig, version: str | None) -> serve.Deployment:
    """Return a deployment; replicas of the same version need not start anew."""
    made = serve.deployment(
        name=kind.__name__,
        max_ongoing_requests=BATCHES_IN_QUEUE,
        max_queued_requests=BATCHES_IN_QUEUE,  # of each ingress replica
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        autoscaling_config=autoscaling(settings),
        # the ingress writes a request log; behind it, a line a batch would say nothing new. Serve
        # makes a record of each request all the same, unless what it says of it is below the level
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=5,
    )(kind)
    # not public: without a version Serve starts every replica anew when an application is run again
    return made if version is None else made.options(_internal=True, version=version)
