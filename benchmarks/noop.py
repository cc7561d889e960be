"""A Serve deployment that does nothing, run as the graph is: what HTTP and Ray Serve cost."""

from __future__ import annotations

from fastapi import FastAPI
from ray import serve

from figures import Plan, Row
from heliograph.bundle import open_bundle
from heliograph.load import http_request
from heliograph_serve.app import GraphArgs, app
from heliograph_serve.graph import served
from levels import free_port, measure_level
from ratios import NOOP

CLIENTS = (1, 16, 32)
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
    application = _like_the_ingress(GraphArgs(bundle=plan.bundle, serve=settings))
    with served(application, settings, "noop"):
        return [measure_level(plan, NOOP, settings.port, requests, count) for count in CLIENTS]


def _like_the_ingress(args: GraphArgs) -> serve.Application:
    """Take the ingress of the graph with all its options, and put the no-op in its place."""
    ingress = app(args)._bound_deployment
    return ingress.options(func_or_class=serve.ingress(http)(Noop), name="Noop").bind()
