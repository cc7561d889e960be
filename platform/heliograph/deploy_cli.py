"""The commands `heliograph deploy` and `heliograph rollback`: another bundle, without a gap."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

console = Console()

URL = "http://127.0.0.1:8000"
POLL_S = 0.5
PATIENCE_S = 60.0
"""With an endpoint that is away for a moment."""

Url = Annotated[str, typer.Option("--url", help="Of the running graph.")]


def deploy(
    bundle: Annotated[
        str, typer.Argument(help="Identifier of a bundle beside the served one, or its folder.")
    ],
    url: Url = URL,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Free the memory of the old bundle; a rollback loads it."),
    ] = False,
) -> None:
    """Serve another bundle without a gap: load it beside the old one, check it, swap.

    Should anything fail, the old one goes on. A folder of bundles stands for its newest one.

    Example: heliograph deploy workspace/bundles --url http://127.0.0.1:8000
    """
    from heliograph import client

    begun = client.deploy(url, bundle_named(bundle), keep_previous=not forget)
    console.print(f"deploying [bold]{escape(begun['bundle'])}[/bold] to {escape(url)}")
    follow(url, begun)
    _print_served(begun)


def rollback(url: Url = URL) -> None:
    """Serve again what was served before the last deployment.

    Example: heliograph rollback --url http://127.0.0.1:8000
    """
    from heliograph import client

    begun = client.rollback(url)
    console.print(f"going back to [bold]{escape(begun['bundle'])}[/bold]")
    follow(url, begun)
    _print_served(begun)


def bundle_named(argument: str) -> str:
    """Return the identifier of a bundle that is given by it, by its folder or by their folder.

    Raises:
        InputError: The folder holds no bundle, or one that is not whole.
    """
    from heliograph.bundle import open_bundle

    path = Path(argument)
    return open_bundle(path).id if path.is_dir() else argument


def follow(url: str, begun: dict[str, Any]) -> None:
    """Print each step of a deployment when it is done, until its end.

    Raises:
        EndpointError: It failed, or whoever led it is gone.
    """
    from heliograph.client import EndpointError

    printed: set[str] = set()
    while True:
        told = _deployments(url)
        progress = told["progress"]
        if progress is None or progress["id"] != begun["id"]:
            raise EndpointError(
                f"the replica that led the deployment is gone; {told['current']} is served"
            )
        for step, seconds in progress["seconds"].items():
            if step not in printed:
                console.print(f"  {step:<10} {seconds:8.2f} s")
                printed.add(step)
        if progress["step"] == "failed":
            raise EndpointError(f"{progress['error']}; {progress['previous']} goes on")
        if progress["step"] == "done":
            return
        time.sleep(POLL_S)


def _print_served(done: dict[str, Any]) -> None:
    console.print(
        f"[bold]{escape(done['bundle'])}[/bold] is served, {escape(done['previous'])} was"
    )


def _deployments(url: str) -> dict[str, Any]:
    from heliograph import client

    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.deployments(url)
        except client.EndpointUnavailable:
            if time.monotonic() > give_up:
                raise
        time.sleep(POLL_S)
