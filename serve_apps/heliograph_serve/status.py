"""The `heliograph status` command: what the running graph does, as tables."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heliograph import client

APP_URL = "http://127.0.0.1:8000"
ANSWER_TIMEOUT_S = 5.0

console = Console()


@dataclass(frozen=True)
class Deployed:
    """One deployment, as Serve sees it."""

    name: str
    state: str
    replicas: Mapping[str, int]
    """State -> replicas."""


@dataclass(frozen=True)
class GraphStatus:
    """What is known of a running graph."""

    is_ready: bool
    deployments: tuple[Deployed, ...]
    """Empty where the cluster cannot be reached."""

    ingresses: tuple[dict[str, Any], ...]
    """What each replica of the ingress says of itself, as `/v1/status`."""


def status(
    url: Annotated[
        str | None,
        typer.Argument(help="Ask this endpoint, and not the Ray cluster of this machine."),
    ] = None,
) -> None:
    """Print what the running graph does; exit with 1 if it is not ready, or nothing answers.

    On a machine of the Ray cluster: every deployment, and every replica of the ingress. With a URL,
    or where no cluster runs: the one replica that happens to answer. An endpoint with API keys
    wants one with the scope read in HELIOGRAPH_KEY.

    Example: heliograph status http://127.0.0.1:8000
    """
    from heliograph.cluster import running_cluster

    cluster = running_cluster() if url is None else None
    try:
        found = graph_of_cluster(cluster) if cluster else graph_at(url or APP_URL)
    except client.EndpointUnavailable as error:
        console.print(f"[red]not ready:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error
    for table in tables(found):
        console.print(table)
    if not found.is_ready:
        console.print("[red]not ready[/red]")
        raise typer.Exit(1)


def graph_at(url: str) -> GraphStatus:
    """Ask an endpoint over HTTP.

    Raises:
        EndpointUnavailable: Nothing answers there.
        EndpointError: A key is missing.
    """
    ready = client.readiness(url)
    return GraphStatus(bool(ready["ready"]), (), (client.status(url),))


def graph_of_cluster(address: str) -> GraphStatus:
    """Ask Serve and every replica of the ingress, through a Ray cluster that runs."""
    import logging

    import ray

    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        return connected_graph()
    finally:
        ray.shutdown()


def connected_graph() -> GraphStatus:
    """Ask Serve and every replica of the ingress, through the cluster that Ray is connected to."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    from heliograph_serve.app import APP_NAME
    from heliograph_serve.recommend import Recommend

    application = serve.status().applications.get(APP_NAME)
    if application is None:
        return GraphStatus(False, (), ())
    deployed = tuple(
        Deployed(
            name,
            str(status.status.value),
            {str(state): count for state, count in status.replica_states.items()},
        )
        for name, status in application.deployments.items()
    )
    ingress = next((one for one in deployed if one.name == Recommend.__name__), None)
    if ingress is None or not ingress.replicas.get("RUNNING"):
        return GraphStatus(False, deployed, ())

    async def ask() -> list[Any]:  # a handle may want a loop, depending on how Serve was tuned
        handle = serve.get_deployment_handle(Recommend.__name__, APP_NAME)
        return await handle.broadcast("status").results_async(timeout_s=ANSWER_TIMEOUT_S)

    try:
        told = asyncio.run(ask())
    except (RayError, RayServeException, TimeoutError):  # one ended or hangs at this moment
        return GraphStatus(False, deployed, ())
    ingresses = tuple(one.model_dump() for one in told)
    healthy = all(one.state == "HEALTHY" for one in deployed)
    open_stages = any("open" in one["stages"].values() for one in ingresses)
    is_running = application.status.value == "RUNNING"
    return GraphStatus(is_running and healthy and not open_stages, deployed, ingresses)


def tables(found: GraphStatus) -> Iterable[Table]:
    """Lay out what was found."""
    if found.deployments:
        yield _deployments(found.deployments)
    if found.ingresses:
        yield _ingresses(found.ingresses)


def _deployments(deployments: Iterable[Deployed]) -> Table:
    table = Table("deployment", "state", "replicas", title="Deployments")
    for one in deployments:
        running = one.replicas.get("RUNNING", 0)
        others = [f"{n} {state.lower()}" for state, n in one.replicas.items() if state != "RUNNING"]
        colour = "green" if one.state == "HEALTHY" else "red"
        replicas = ", ".join([f"{running} running", *others])
        table.add_row(one.name, f"[{colour}]{one.state.lower()}[/{colour}]", replicas)
    return table


def _ingresses(ingresses: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Replicas of the ingress", show_header=False)
    facts = [_facts(one) for one in ingresses]
    for name in facts[0]:
        table.add_row(name, *(of_one[name] for of_one in facts))
    return table


def _facts(one: dict[str, Any]) -> dict[str, str]:
    left_alone = [stage for stage, state in one["stages"].items() if state == "open"]
    store_answers = not {"history", "events"} & set(left_alone)
    return {
        "bundle": one["bundle"],
        "version": one["version"],
        "up": f"{one['uptime_s'] / 3600:.1f} h",
        **{f"answers, {tier}": str(count) for tier, count in one["answers"].items()},
        **{name: _latency(one, name) for name in ("p50", "p95", "p99")},
        "waiting": ", ".join(f"{n} {stage}" for stage, n in one["waiting"].items()),
        "stages left alone": ", ".join(left_alone) or "none",
        "candidates remembered": _hit_rate(one),
        "event store answers": "yes" if store_answers else "[red]no[/red]",
        "experiment": one["experiment"] or "none",
        "exposures": _exposures(one["exposures"]),
    }


def _latency(one: dict[str, Any], name: str) -> str:
    return f"{one['latency_ms'][name]:.1f} ms" if name in one["latency_ms"] else "-"


def _exposures(counts: dict[str, int]) -> str:
    told = f"{counts['kept']} kept, {counts['waiting']} waiting"
    return f"{told}, [red]{counts['lost']} lost[/red]" if counts["lost"] else told


def _hit_rate(one: dict[str, Any]) -> str:
    hits, misses = one["candidate_cache"]["hits"], one["candidate_cache"]["misses"]
    return f"{hits / (hits + misses):.0%}" if hits + misses else "-"
