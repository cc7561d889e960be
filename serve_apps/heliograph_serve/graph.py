"""Runs the graph on a Ray cluster and takes it down again."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import httpx
import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve._private.constants import (
    RAY_SERVE_HAPROXY_BINARY_PATH,
    SERVE_CONTROLLER_NAME,
    SERVE_NAMESPACE,
)
from ray.serve.config import HTTPOptions
from ray.util import list_named_actors

from heliograph.cluster import answers, has_cluster, ray_cluster
from heliograph.config import ServeConfig
from heliograph.deployments import bundle_to_serve
from heliograph.event_store.engine import require_usable, store_url
from heliograph.pseudonyms import read_key
from heliograph.workspace import InputError
from heliograph_serve.app import APP_NAME, GraphArgs, app
from heliograph_serve.listening import require_protection
from heliograph_serve.second_haproxy import second_haproxy
from heliograph_serve.tracing import tracing

STORE = "history"
"""The stage that reads the event store."""

START_TIMEOUT_S = 300.0
END_TIMEOUT_S = 90.0
STORE_PATIENCE_S = 30.0
"""For the event store to answer a graph that is ready but for it."""


@contextmanager
def running_graph(bundle: Path, settings: ServeConfig | None = None) -> Iterator[str]:
    """Serve a bundle for as long as the block runs; yields the URL of the endpoint.

    Joins a running Ray cluster, or starts one and ends it with the block.

    Raises:
        InputError: The bundle is not whole, the port is busy, events cannot be kept, the event
            store does not answer, or the endpoint would be open to the network.
    """
    opened = bundle_to_serve(bundle)
    opened.check()
    settings = settings or opened.config.serve
    require_usable(store_url(settings, opened.folder.parent))
    read_key(opened.config.events)
    require_protection(settings, settings.host, opened.folder.parent)
    application = app(GraphArgs(bundle=opened.folder, serve=settings))
    with served(application, settings, APP_NAME) as url:
        wait_until_ready(url)
        yield url


@contextmanager
def served(application: Application, settings: ServeConfig, name: str) -> Iterator[str]:
    """Run an application at the host and port of the settings; yields its URL.

    Afterwards a Serve that was running before goes on without it; one started here ends.

    Raises:
        InputError: The port is busy, or Serve runs already and has no place for it.
    """
    if not has_cluster():
        require_free_port(settings.host, settings.port)  # before Ray is started for nothing
    with ray_cluster(dashboard=True):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        was_running = bool(serve.status().proxies)
        if was_running:
            require_place(settings, name)
        else:
            require_free_port(settings.host, settings.port)
            start_serve(settings)
        try:
            with nullcontext() if was_running else second_haproxy():
                serve.run(application, name=name, route_prefix="/")
                yield f"http://{settings.host}:{settings.port}"
        finally:
            if was_running:
                serve.delete(name)
            else:
                end_serve()


def require_place(settings: ServeConfig, name: str) -> None:
    """Raise `InputError` if the Serve that runs on this cluster cannot take an application too."""
    client = serve.context._get_global_client()
    assert client is not None  # it raises by itself where no Serve runs
    running = client.get_serve_details()
    host, port = running["http_options"]["host"], running["http_options"]["port"]
    if name in running["applications"]:
        raise InputError(
            f"{name!r} is served on this Ray cluster already, at port {port} of {host}; give it "
            "another bundle with `heliograph deploy`, or stop it first"
        )
    if (settings.host, settings.port) != (host, port):
        raise InputError(
            f"Ray Serve runs on this cluster already, at port {port} of {host}, and cannot listen "
            f"at port {settings.port} of {settings.host} too; say --host {host} --port {port}, "
            "or end what runs (`serve shutdown`)"
        )
    for other, told in running["applications"].items():
        if told["route_prefix"] == "/":
            raise InputError(
                f"every path of the Serve that runs on this cluster belongs to {other!r}; "
                "end it (`serve shutdown`), or give that application a prefix of its own"
            )


def start_serve(settings: ServeConfig) -> None:
    """Start Serve, without an application.

    Raises:
        InputError: There is no HAProxy to start; Serve would try for ever.
    """
    if (program := RAY_SERVE_HAPROXY_BINARY_PATH) and not os.access(program, os.X_OK):
        raise InputError(
            f"{program} is not there or cannot be run: heliograph has been updated but not "
            "installed anew (`pip install` it again), or RAY_SERVE_HAPROXY_BINARY_PATH is wrong"
        )
    serve.start(
        proxy_location="EveryNode",
        http_options=HTTPOptions(host=settings.host, port=settings.port),
        tracing_config=tracing(settings.trace_share),
    )


def end_serve() -> None:
    """Shut Serve down and return when it is gone, or when the cluster is.

    A cluster of our own goes at the same time where all processes of a group are told to end. Ray
    would wait a minute for it and abort this process.

    Raises:
        RuntimeError: Serve does not end.
    """
    cluster = ray.get_runtime_context().gcs_address
    ended: Future[None] = Future()
    threading.Thread(target=_end_serve, args=(ended,), daemon=True).start()
    while not ended.done() and answers(cluster):
        wait([ended], timeout=0.5)
    if ended.done():
        ended.result()


def _end_serve(ended: Future[None]) -> None:
    """Shut Serve down and wait until it is gone.

    Serve's own call stops waiting after 30 s, which a busy machine exceeds; whoever starts Serve
    again by then would be shut down with it. And it waits in a call to the controller, whose end
    Ray then reports as the failure of that call.
    """
    try:
        with suppress(ValueError, RayActorError):  # it is gone
            controller = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
            ray.get(controller.graceful_shutdown.remote(wait=False))
        give_up = time.monotonic() + END_TIMEOUT_S
        name = {"name": SERVE_CONTROLLER_NAME, "namespace": SERVE_NAMESPACE}
        while name in list_named_actors(all_namespaces=True):
            if time.monotonic() > give_up:
                raise RuntimeError(f"Serve has not ended after {END_TIMEOUT_S:g} s")
            time.sleep(0.1)
        serve.shutdown()  # forgets what this process knows of it
    except BaseException as error:
        ended.set_exception(error)
    else:
        ended.set_result(None)


def require_free_port(host: str, port: int) -> None:
    """Raise `InputError` if something else listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {host} cannot be used ({error.strerror}); "
                "stop what listens there or choose another with --port"
            ) from error


def wait_until_ready(url: str) -> None:
    """Return once every stage of the graph answers.

    Raises:
        InputError: All but the event store do.
    """
    give_up = time.monotonic() + START_TIMEOUT_S
    complete_since: float | None = None
    while True:
        try:
            reply = httpx.get(f"{url}/readyz", timeout=5)
            seen = reply.text
            lacking = _lacking(reply)
            if not lacking:
                return
            complete_since = (complete_since or time.monotonic()) if lacking == {STORE} else None
        except httpx.HTTPError as error:
            seen = str(error)
        if complete_since and time.monotonic() > complete_since + STORE_PATIENCE_S:
            raise InputError(
                f"the event store has not answered for {STORE_PATIENCE_S:g} s; look whether the "
                "database is up and serve.store (--store) is right"
            )
        if time.monotonic() > give_up:
            raise RuntimeError(f"the graph at {url} is not ready after 300 s: {seen}")
        time.sleep(0.1)


def _lacking(reply: httpx.Response) -> set[str]:
    """Return the stages that do not answer; what is not the graph's answer has none that does."""
    if reply.status_code != 200:
        return {"all"}
    return {name for name, answers in reply.json()["stages"].items() if not answers}


def dashboard_url() -> str | None:
    """Return the URL of the Ray dashboard, if the cluster has one."""
    address = ray.worker.get_dashboard_url()
    return f"http://{address}" if address else None
