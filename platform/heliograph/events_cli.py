"""The commands `heliograph events ...`: the event store from the outside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from heliograph.workspace import InputError

if TYPE_CHECKING:
    from heliograph.config import HeliographConfig

app = typer.Typer(
    help="The events that users cause while a bundle is served.", no_args_is_help=True
)
console = Console()

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. serve.store=..."),
]


@app.command()
def migrate(config: ConfigPath, overrides: Overrides = None) -> None:
    """Bring the event store to the schema of this version; a graph does so when it starts.

    Example: heliograph events migrate shop.yaml
    """
    from heliograph.config_file import load_config
    from heliograph.event_store.store import EventStore

    async def run() -> None:
        store = EventStore(url)
        await store.ready()
        await store.close()

    url = _url(load_config(config, overrides or []))
    asyncio.run(run())
    console.print("the event store is up to date")


@app.command()
def export(
    config: ConfigPath,
    overrides: Overrides = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: what builds read.")
    ] = None,
) -> None:
    """Write what is new in the event store as Parquet; a build does so by itself.

    Only what the folder lacks is written, so run it as often as you like. Erased users are taken
    out of what was written before.

    Example: heliograph events export shop.yaml --to exported
    """
    from heliograph.config_file import load_config
    from heliograph.event_store.exporting import FEEDBACK_FOLDER, export_once

    settings = load_config(config, overrides or [])
    done = asyncio.run(export_once(_url(settings), to or settings.workspace / FEEDBACK_FOLDER))
    erased = f", {done.erased} events of erased users removed" if done.erased else ""
    console.print(
        f"{done.events} new events, up to position {done.position}{erased} "
        f"[bold]{escape(str(done.folder))}[/bold]"
    )


@app.command("import")
def import_command(
    url: Annotated[str, typer.Argument(help="Of a running graph, e.g. http://127.0.0.1:8000")],
    source: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines; - for a pipe.")],
    follow: Annotated[bool, typer.Option(help="Go on as the file grows and is rotated.")] = False,
    offsets: Annotated[
        Path | None, typer.Option(help="Where the place in the file is noted. [FILE.offset]")
    ] = None,
    rejected: Annotated[
        Path | None, typer.Option(help="Gets lines that are no events. [FILE.rejected]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Events in one request.")] = 500,
    give_up_s: Annotated[float, typer.Option(help="Patience with an endpoint that is away.")] = 300,
) -> None:
    """Send events, one JSON object a line, to a running graph.

    Every line is sent at least once and counts once; started again, it goes on where it was.

    Example: kafkacat -C -t clicks | heliograph events import http://127.0.0.1:8000 -
    """
    from heliograph.event_store.importing import STANDARD_INPUT, Importer

    is_pipe = source == STANDARD_INPUT
    if source.is_dir():
        raise InputError(f"{source} is a folder; name a file of JSON lines, or - for a pipe")
    base = Path("stdin") if is_pipe else source
    rejected = rejected or base.with_name(f"{base.name}.rejected")
    done = Importer(
        url,
        None if is_pipe else offsets or base.with_name(f"{base.name}.offset"),
        rejected,
        batch,
        give_up_s,
    ).run(source, follow)
    reasons = f"; {escape(str(rejected))} says why" if done.rejected else ""
    console.print(
        f"{done.new} new events, {done.repeated} known already, {done.erased} of erased users, "
        f"{done.rejected} lines rejected{reasons}"
    )


def _url(config: HeliographConfig) -> str:
    from heliograph.event_store.engine import store_url
    from heliograph.workspace import make_folder

    bundles = config.workspace / "bundles"
    if config.serve.store is None:
        make_folder(config.workspace, "workspace")
        bundles.mkdir(exist_ok=True)
    return store_url(config.serve, bundles)
