"""The command line: one command a stage, in the order of the stages, and what comes after.

A command parses its arguments, calls the library and prints. Commands of other parts of
heliograph (serving, tuning) are found through the entry point group `heliograph.commands`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from heliograph.config import SplitName
from heliograph.deploy_cli import deploy, rollback
from heliograph.events_cli import app as events_app
from heliograph.experiment_cli import app as experiment_app
from heliograph.items_cli import app as items_app
from heliograph.keys_cli import app as keys_app
from heliograph.workspace import InputError

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ORDER = (
    "ingest", "embed", "train", "index", "evaluate", "refit", "bundle", "build", "report", "tune",
    "serve", "status", "recommend", "deploy", "rollback", "experiment", "events", "items", "keys",
    "doctor", "version",
)  # fmt: skip
"""All commands, as the data flows: from files to a bundle, to a graph, to what it hears."""


class InOrder(TyperGroup):
    """Lists the commands by ORDER, whoever registered them, and when."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands; what is not in ORDER comes last."""
        place = {name: number for number, name in enumerate(ORDER)}
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: place.get(name, len(place)))


app = typer.Typer(
    name="heliograph",
    cls=InOrder,
    help="From interaction logs and item texts to a served generative recommender.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console()
app.add_typer(events_app, name="events")
app.add_typer(items_app, name="items")
app.command()(deploy)
app.command()(rollback)
app.add_typer(experiment_app, name="experiment")
app.add_typer(keys_app, name="keys")

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML file; see examples/movielens.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. train.lr=1e-3."),
]


def _stage_command(stage: str, summary: str) -> None:
    """Register the command that runs the stages up to one of them."""

    def command(config: ConfigPath, overrides: Overrides = None) -> None:
        run_stages(config, overrides or [], until=stage)

    command.__doc__ = (
        f"{summary}\n\nStages before it run first where their inputs or settings have changed."
        f"\n\nExample: heliograph {stage} examples/movielens/movielens.yaml"
    )
    app.command(stage)(command)


_stage_command("ingest", "Read and clean items and events.")
_stage_command("embed", "Turn item texts into vectors.")
_stage_command("train", "Fit every model, the item LM last.")
_stage_command("index", "Build the FAISS indexes.")
_stage_command("refit", "Fit the models once more, on train and validation, as they are served.")
_stage_command("bundle", "Write the folder that serving loads.")


@app.command("build")
def build_command(config: ConfigPath, overrides: Overrides = None) -> None:
    """Run every stage that has something to do, down to the bundle.

    Example: heliograph build examples/movielens/movielens.yaml --set train.epochs=20
    """
    run_stages(config, overrides or [], until="bundle")


@app.command("report")
def report_command(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A bundle, or a folder of bundles: the newest.")
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
) -> None:
    """Write one HTML page: how good a bundle is, for whom, why, and what it recommends.

    Example: heliograph report examples/movielens/workspace/bundles --out report.html
    """
    from heliograph.bundle import open_bundle
    from heliograph.report import write_report

    write_report(open_bundle(bundle), out)
    console.print(f"report [bold]{escape(str(out))}[/bold]")


@app.command()
def evaluate(
    config: ConfigPath,
    overrides: Overrides = None,
    against: Annotated[
        str | None, typer.Option(metavar="URL", help="Of a running graph that must agree.")
    ] = None,
    users: Annotated[int, typer.Option(help="Users to ask the graph about, a sample.")] = 1000,
    split: Annotated[
        SplitName | None, typer.Option(help="Hold out otherwise, and fit every model anew.")
    ] = None,
) -> None:
    """Compare all models and the pipeline on held-out items: each user's last one.

    Stages before it run first where their inputs or settings have changed. With a URL the graph
    there is asked too, through its API, and must come to the same figures as its bundle offline.
    With a split something else is held out: the latest events of all users (temporal), users or
    items that training does not see at all (new-users, new-items), or the events of another file
    (given); the setting `splits` says how many.

    Example: heliograph evaluate examples/movielens/movielens.yaml --split temporal
    """
    if split is not None and against is not None:
        raise typer.BadParameter("a running graph is compared on the last items, not on a split")
    if split is not None:
        show_split(config, overrides or [], split)
    elif against is None:
        run_stages(config, overrides or [], until="evaluate")
    elif not agrees_with_graph(config, overrides or [], against, users):
        raise typer.Exit(1)


@app.command()
def recommend(
    url: Annotated[str, typer.Argument(help="Of a running graph, e.g. http://127.0.0.1:8000")],
    user: Annotated[str, typer.Argument(help="Identifier of a user.")],
    n: Annotated[int, typer.Option("-n", help="Items wanted.")] = 10,
    rules: Annotated[
        str, typer.Option(metavar="JSON", help="More of the request: filter, boosts, caps, ...")
    ] = "{}",
    explain: Annotated[bool, typer.Option("--explain", help="Say why, item by item.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
) -> None:
    """Ask a running graph for recommendations and print them as a table.

    Example: heliograph recommend http://127.0.0.1:8000 196 -n 5 --rules '{"diversity": 0.3}'
    """
    from heliograph import client, display

    request = {"user_id": user, "n": n} | _rules(rules)
    answer = client.recommend(url, request | {"explain": True} if explain else request)
    if as_json:
        console.print_json(data=answer)
    else:
        console.print(display.recommendations(answer, f"Recommended for user {user}"))


def _rules(text: str) -> dict[str, Any]:
    try:
        rules = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--rules is no JSON ({error}): {text[:200]}") from error
    if not isinstance(rules, dict):
        raise InputError(f'--rules must be an object like {{"diversity": 0.3}}, got {text[:200]}')
    return rules


@app.command()
def doctor() -> None:
    """Print what this machine offers and what is wrong with it.

    Example: heliograph doctor
    """
    from heliograph import display
    from heliograph.doctor import examine

    findings = examine()
    console.print(display.findings(findings))
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version.

    Example: heliograph version
    """
    from heliograph import __version__

    console.print(__version__)


def run_stages(path: Path, overrides: list[str], until: str) -> Path | None:
    """Run stages with progress bars; returns the bundle's folder if it was made."""
    from heliograph import display
    from heliograph.build import REFIT, STAGES, Build
    from heliograph.bundle import METRICS_FILE
    from heliograph.cleaning import mostly_rejected
    from heliograph.config_file import load_config

    config = load_config(path, overrides)
    with display.StageProgress(console) as report, Build(config, report) as build:
        folder = None
        for stage, run in STAGES.items():
            result = run(build)
            folder = result if isinstance(result, Path) else None
            if stage == until:
                break
    for note in mostly_rejected(build.stages.folder("items"), build.stages.folder("events")):
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    evaluations = {"evaluate": "evaluation", "refit": f"{REFIT}evaluation"}
    if evaluations.get(until) in build.stages.results:
        folder_of = build.stages.results[evaluations[until]].folder
        console.print(*display.comparison(folder_of / METRICS_FILE))
    elif "evaluation" in build.stages.results:
        skipped = display.skipped(build.stages.folder("evaluation") / METRICS_FILE)
        if skipped:
            console.print(f"[yellow]note:[/yellow] {skipped}")
    if folder is not None:
        console.print(f"bundle [bold]{escape(str(folder))}[/bold]")
    return folder


def show_split(path: Path, overrides: list[str], split: SplitName) -> None:
    """Evaluate on a split and print what was found."""
    from heliograph import display
    from heliograph.build import STAGES, Build
    from heliograph.bundle import METRICS_FILE
    from heliograph.config_file import load_config

    config = load_config(path, overrides)
    with display.StageProgress(console) as report, Build(config, report) as build:
        for stage in ("ingest", "embed"):
            STAGES[stage](build)
        folder = build.evaluate_split(split).folder
    console.print(*display.comparison(folder / METRICS_FILE))


def agrees_with_graph(path: Path, overrides: list[str], url: str, users: int) -> bool:
    """Compare a running graph with its bundle offline, print both, and tell whether they agree."""
    from heliograph import display
    from heliograph.against import compare_with_graph
    from heliograph.build import STAGES, Build
    from heliograph.bundle import open_bundle
    from heliograph.config_file import load_config

    config = load_config(path, overrides)
    with display.StageProgress(console) as report, Build(config, report) as build:
        STAGES["ingest"](build)
        asked = build.split.test_items().sample(users, config.seed)
        report.start("against the graph", 2 * len(asked.targets))
        bundle = open_bundle(config.workspace / "bundles")
        found = compare_with_graph(url, bundle, asked, report.advance)
    console.print(display.agreement(found))
    return found.agrees


def add_commands() -> None:
    """Register the commands of other parts of heliograph."""
    for entry in entry_points(group="heliograph.commands"):
        command: Any = entry.load()
        if isinstance(command, typer.Typer):  # a group of commands
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


def main() -> None:
    """Run the command line; mistakes in the input are one line on standard error, no traceback.

    SIGTERM ends a command as Ctrl-C does: it cleans up and says how to go on.
    """
    from heliograph.client import EndpointError
    from heliograph.config_file import ConfigError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    add_commands()
    try:
        app()
    except (ConfigError, InputError, EndpointError) as error:
        _end_with(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _end_with(f"{error.filename}: {error.strerror}")


def _end_with(problem: str) -> NoReturn:
    Console(stderr=True).print(
        f"[red]error:[/red] {escape(problem)}", highlight=False, soft_wrap=True
    )
    sys.exit(2)
