"""A Serve deployment that does nothing, run as the graph is: what HTTP and Ray Serve cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from figures import Plan, Row
from levels import free_port, measure_level
from load import http_request
from ratios import NOOP
from ray import serve
from ray.serve.config import HTTPOptions

from heliograph.bundle import open_bundle
from heliograph.cluster import ray_cluster
from heliograph.config import ServeConfig
from heliograph_serve.app import _deployment

CLIENTS = (1, 16, 32)
MAX_ONGOING = 1024
"""As the ingress of the graph has it."""

http = FastAPI()


class Noop:
    """The least that an ingress can be."""

    @http.get("/noop")
    async def noop(self) -> dict[str, bool]:
        """Answer at once."""
        return {"ok": True}


def measure_noop(plan: Plan) -> list[Row]:
    """Measure it with one client and with many."""
    settings = open_bundle(plan.bundle).config.serve.model_copy(update={"port": free_port()})
    requests = [http_request("GET", "/noop")]
    with _running(settings):
        return [measure_level(plan, NOOP, settings.port, requests, count) for count in CLIENTS]


@contextmanager
def _running(settings: ServeConfig) -> Iterator[None]:
    """Serve it with the options and HTTP settings of `running_graph`."""
    with ray_cluster(dashboard=True):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(
            proxy_location="EveryNode",
            http_options=HTTPOptions(host=settings.host, port=settings.port),
        )
        try:
            ingress = _deployment(serve.ingress(http)(Noop), settings.recommend, MAX_ONGOING)
            serve.run(ingress.bind(), name="noop", route_prefix="/")
            yield
        finally:
            serve.shutdown()
