"""Wires the graph: Recommend -> Retrieve -> Rank, with every deployment's options in one place."""

from __future__ import annotations

import uuid
from pathlib import Path

from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from heliograph.config import Config, DeploymentConfig, Rules, ServeConfig
from heliograph.deployments import bundle_to_serve
from heliograph.rules import read_rules
from heliograph_serve.autoscaling import autoscaling
from heliograph_serve.rank import Rank
from heliograph_serve.recommend import Recommend, http
from heliograph_serve.retrieve import Retrieve
from heliograph_serve.rulebook import CONFIGURED
from heliograph_serve.shelf import Origin

APP_NAME = "heliograph"
BATCHES_IN_QUEUE = 64
"""Batches of all ingress replicas that a replica accepts at once."""

REQUESTS_IN_PROGRESS = 1024
"""Requests that an ingress replica accepts at once."""


class GraphArgs(Config):
    """Arguments of the application."""

    bundle: Path
    """A bundle, or a folder of bundles, of which the one deployed last is served, or else the
    newest. Every node must see it."""

    serve: ServeConfig | None = None
    """How to serve; default: as the bundle's configuration says."""


def app(args: GraphArgs) -> Application:
    """Build the graph. Named in serve_apps/recommend.yaml as `heliograph_serve.app:app`.

    Raises:
        InputError: The bundle is not whole, or `serve.rules` do not fit its catalogue.
    """
    opened = bundle_to_serve(args.bundle)
    settings = args.serve or opened.config.serve
    if settings.rules != Rules():  # said here, where it can be read, not by a replica that dies
        read_rules(settings.rules, opened.catalogue().attributes, CONFIGURED)
    origin = Origin(opened.folder, opened.id, uuid.uuid4().hex)
    retrieve = _deployment(Retrieve, settings.retrieve).bind(origin)
    rank = _deployment(Rank, settings.rank).bind(origin, settings)
    ingress = _deployment(serve.ingress(http)(Recommend), settings.recommend).options(
        max_ongoing_requests=REQUESTS_IN_PROGRESS,
        logging_config=LoggingConfig(enable_access_log=True),
    )
    return ingress.bind(origin, settings, retrieve, rank)


def _deployment(kind: type, settings: DeploymentConfig) -> serve.Deployment:
    return serve.deployment(
        name=kind.__name__,
        max_ongoing_requests=BATCHES_IN_QUEUE,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        autoscaling_config=autoscaling(settings),
        # one line a request belongs to the ingress; behind it, a line a batch would say nothing new
        logging_config=LoggingConfig(enable_access_log=False),
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=5,
    )(kind)
