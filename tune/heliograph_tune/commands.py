"""The `heliograph tune` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

console = Console()

SEARCH = "search"
INTERRUPTED = 130
"""Exit status of what Ctrl-C has ended, as shells have it."""


class DefaultsToSearch(TyperGroup):
    """A group of commands; what is no command's name is a search file to be run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command before arguments that name none."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [SEARCH, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


tune = typer.Typer(
    cls=DefaultsToSearch,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Search for better settings: `heliograph tune SEARCH.yaml`, then `report`, `promote`.\n\n"
    "Example: heliograph tune tune/movielens.yaml",
)

RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run, such as workspace/searches/als-1.")
]


@tune.command(SEARCH)
def search_command(
    search: Annotated[Path, typer.Argument(metavar="SEARCH", help="YAML file; see tune/.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest run of this search.")
    ] = False,
) -> None:
    """Run a search, or with --resume what is left of one; the word `search` need not be written.

    A search is of one model, of the pipeline on top of fitted models, or of the running graph
    under the load of real users (tune/movielens-serving.yaml).

    Starts Ray if none runs, joins the cluster if one does. Whatever ends it, --resume goes on, and
    no finished trial is run again.

    Example: heliograph tune tune/movielens.yaml --resume
    """
    from heliograph.display import StageProgress
    from heliograph_tune.progress import SearchProgress, best_table, outcome
    from heliograph_tune.run_folder import create_run, newest_run
    from heliograph_tune.search import run_search
    from heliograph_tune.search_file import load_search

    loaded = load_search(search)
    folder = newest_run(loaded) if resume else create_run(loaded)
    console.print(f"run [bold]{escape(str(folder.path))}[/bold]", soft_wrap=True)
    try:
        with (
            StageProgress(console) as stages,
            SearchProgress(console, loaded, folder.record()) as trials,
        ):
            record = run_search(loaded, folder, stages, trials.watch)
    except KeyboardInterrupt:
        console.print(best_table(loaded, folder.record()))
        console.print(f"stopped; go on with: heliograph tune {escape(str(search))} --resume")
        raise typer.Exit(INTERRUPTED) from None
    console.print(best_table(loaded, record))
    for line in outcome(loaded, record, folder.path):
        console.print(escape(line), soft_wrap=True)


@tune.command("report")
def report_command(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="HTML file; default: RUN/report.html.")] = None,
) -> None:
    """Write one HTML page: learning curves, what mattered, the Pareto front, every trial.

    Of a search with a goal it names the trial that is recommended.

    Example: heliograph tune report examples/movielens/workspace/searches/item-lm-1
    """
    from heliograph_tune.report import write_report
    from heliograph_tune.run_folder import RunFolder

    written = write_report(RunFolder(run), out or run / "report.html")
    console.print(f"report [bold]{escape(str(written))}[/bold]", soft_wrap=True)


@tune.command("promote")
def promote_command(
    run: RunPath,
    against: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="Compare with this; default: CONFIG of the search."),
    ] = None,
) -> None:
    """Build a bundle with the best configuration, and compare it with the one as it stood.

    This alone reads the test items, once: a second time it prints what it found.

    Example: heliograph tune promote examples/movielens/workspace/searches/item-lm-1
    """
    from heliograph.display import StageProgress
    from heliograph_tune.progress import promotion_table
    from heliograph_tune.promote import promote
    from heliograph_tune.run_folder import RunFolder

    with StageProgress(console) as stages:
        promotion = promote(RunFolder(run), stages, against)
    console.print(promotion_table(promotion))
    console.print(f"configuration [bold]{escape(promotion.config)}[/bold]", soft_wrap=True)
    console.print(f"bundle [bold]{escape(promotion.bundle)}[/bold]", soft_wrap=True)
