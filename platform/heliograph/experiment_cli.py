"""The commands `heliograph experiment ...`: two bundles side by side."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from heliograph.deploy_cli import URL, Url, bundle_named, follow
from heliograph.events_cli import ConfigPath, Overrides

if TYPE_CHECKING:
    from heliograph.event_store.store import EventStore

app = typer.Typer(
    help="Two bundles side by side: a share of the users gets another one.", no_args_is_help=True
)
console = Console()

Found = TypeVar("Found")
Name = Annotated[str, typer.Argument(help="Of the experiment.", show_default=False)]

UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@app.command()
def start(
    name: Annotated[str, typer.Argument(help="Users are divided by it; a-z, 0-9 and -.")],
    bundle: Annotated[
        str,
        typer.Option(help="The other bundle: its identifier or its folder.", show_default=False),
    ],
    share: Annotated[float, typer.Option(help="Of users who get it, above 0 and below 1.")] = 0.5,
    url: Url = URL,
) -> None:
    """Answer a share of the users from another bundle, loaded beside the served one and checked.

    A user stays in one arm, on every replica and after every restart. Stopped and started again
    under its name, an experiment goes on with the same users in the same arms.

    Example: heliograph experiment start larger-model --bundle shop-1a2b3c4d5e6f --share 0.2
    """
    from heliograph import client

    begun = client.start_experiment(url, name, bundle_named(bundle), share)
    console.print(f"starting [bold]{escape(name)}[/bold] at {escape(url)}")
    follow(url, begun)
    console.print(
        f"{share:.0%} of the users are answered from [bold]{escape(begun['bundle'])}[/bold], the "
        f"others from {escape(begun['previous'])}"
    )


@app.command()
def stop(url: Url = URL) -> None:
    """Answer everybody from the served bundle again; what was found out so far stays.

    Example: heliograph experiment stop --url http://127.0.0.1:8000
    """
    from heliograph import client

    begun = client.stop_experiment(url)
    follow(url, begun)
    console.print(f"everybody is answered from [bold]{escape(begun['previous'])}[/bold]")


@app.command("list")
def list_command(url: Url = URL) -> None:
    """Print which experiments there were, and which goes on.

    Example: heliograph experiment list --url http://127.0.0.1:8000
    """
    from heliograph import client, experiment_display

    console.print(experiment_display.runs(client.experiments(url)["runs"]))


@app.command("report")
def report_command(
    config: ConfigPath,
    name: Name,
    goal: Annotated[
        list[str], typer.Option(help="Type of event that counts as success; may be repeated.")
    ],
    within: Annotated[
        str, typer.Option(help="Time after a user's first exposure, e.g. 30m, 12h, 7d.")
    ] = "7d",
    all_items: Annotated[
        bool,
        typer.Option("--all-items", help="Count events of any item, not only of items shown."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overrides: Overrides = None,
) -> None:
    """Print what the users of each arm did, the lift with its interval, and whether to trust it.

    Reads the event store itself, so that requests do not pay for it. How long an experiment goes
    on should be said before it starts: who looks every day and stops at the first lift finds
    lifts that are not there.

    Example: heliograph experiment report shop.yaml larger-model --goal purchase --within 7d
    """
    from heliograph import experiment_display
    from heliograph.experiment_report import Question, report

    question = Question(
        name, tuple(goal), seconds(within), attribution="any" if all_items else "shown"
    )
    now_us = time.time_ns() // 1000
    found = in_store(config, overrides, lambda store: report(store, question, now_us))
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        for part in experiment_display.report(found):
            console.print(part)


@app.command()
def forget(
    config: ConfigPath,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    overrides: Overrides = None,
) -> None:
    """Delete what the users of a past experiment were answered: a row for every answer.

    Its report can be printed no more. Events stay, and so does the name: `experiment list` still
    tells when it went on, and between which bundles.

    Example: heliograph experiment forget shop.yaml larger-model
    """
    from heliograph.event_store.exposures import forget_exposures

    if not yes:
        typer.confirm(f"Delete every exposure of {name}? Print its report first.", abort=True)
    count = in_store(config, overrides, lambda store: forget_exposures(store, name))
    console.print(f"{count:,} exposures of [bold]{escape(name)}[/bold] are deleted")


def in_store(
    config: Path, overrides: list[str] | None, work: Callable[[EventStore], Awaitable[Found]]
) -> Found:
    """Do something with the event store that a configuration names.

    Raises:
        InputError: There is no such store.
    """
    from heliograph.config_file import load_config
    from heliograph.event_store.engine import require_usable, store_url
    from heliograph.event_store.store import EventStore

    settings = load_config(config, overrides or [])
    url = store_url(settings.serve, settings.workspace / "bundles")

    async def run() -> Found:
        require_usable(url)
        store = EventStore(url)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def seconds(text: str) -> float:
    """Read a time such as 30m, 12h or 7d.

    Raises:
        typer.BadParameter: It is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no time; say for example 30m, 12h or 7d")
    return float(match[1]) * UNITS_S[match[2]]
