"""The `heliograph serve` command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

console = Console()


def serve(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle, or a folder of bundles: deployed last, or newest.")
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    store: Annotated[str | None, typer.Option(help="URL of the event store.")] = None,
    keys: Annotated[Path | None, typer.Option(help="File of API keys.")] = None,
    open_to_network: Annotated[
        bool | None,
        typer.Option("--open-to-network", help="Without keys, to whoever comes."),
    ] = None,
) -> None:
    """Serve a bundle until Ctrl-C.

    Starts Ray if none runs, joins the cluster if one does.

    Example: heliograph serve examples/movielens/workspace/bundles --port 8000
    """
    from heliograph.config_file import override_serve
    from heliograph.deployments import bundle_to_serve
    from heliograph_serve.graph import dashboard_url, running_graph

    options = {
        "host": host,
        "port": port,
        "store": store,
        "keys": keys and keys.absolute(),
        "open_to_network": open_to_network,
    }
    opened = bundle_to_serve(bundle)
    settings = override_serve(opened.config.serve, options)
    console.print(f"starting the graph of {opened.folder} ...")
    with stopped_by_signal(), running_graph(opened.folder, settings) as url:
        console.print(f"endpoint   {url}\ntry it     {url}/\nAPI        {url}/docs")
        console.print(f"dashboard  {dashboard_url()}")
        console.print("Ctrl-C stops it")
        signal.pause()
    console.print("stopped")


@contextmanager
def stopped_by_signal() -> Iterator[None]:
    """Leave the block on Ctrl-C or SIGTERM, in a way that lets it clean up; no error remains."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not stop the clean-up
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
