"""MovieLens-100K from nothing to a served recommendation: the whole platform on one page.

Run it with `make demo`, or `python examples/movielens/demo.py [--once] [--user 196]`.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from heliograph import client, display
from heliograph.build import STAGES, Build
from heliograph.bundle import METRICS_FILE, Bundle, open_bundle
from heliograph.config_file import load_config
from heliograph_serve.commands import stopped_by_signal
from heliograph_serve.graph import dashboard_url, running_graph

CONFIG = Path(__file__).with_name("movielens.yaml")
LAST_WATCHED = 5


def main() -> None:
    """Build what is not built yet, serve it, recommend."""
    arguments = parse_arguments()
    console = Console()
    started = time.perf_counter()
    config = load_config(CONFIG, arguments.overrides)
    with stopped_by_signal():
        with display.StageProgress(console) as report, Build(config, report) as build:
            for stage in STAGES.values():
                stage(build)
        bundle = open_bundle(config.workspace / "bundles")
        console.print(*display.headline(bundle.folder / METRICS_FILE))
        console.print("starting the graph: Recommend -> Retrieve (FAISS) -> Rank (vLLM) ...")
        with running_graph(bundle.folder) as url:
            console.print(last_watched(bundle, arguments.user))
            answer = client.recommend(url, {"user_id": arguments.user, "n": 10})
            console.print(display.recommendations(answer, f"Recommended for {arguments.user}"))
            console.print(
                f"endpoint   {url}\ntry it     {url}/\nAPI        {url}/docs\n"
                f"dashboard  {dashboard_url()}\n"
                f"ready after {time.perf_counter() - started:.0f} s"
            )
            if not arguments.once:
                console.print("Ctrl-C stops it")
                signal.pause()
    console.print("stopped")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="exit after printing")
    parser.add_argument("--user", default="196", help="whom to recommend to")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def last_watched(bundle: Bundle, user: str) -> Table:
    """Lay out the newest items of a user's history."""
    history = bundle.histories().find(user)
    catalogue = bundle.catalogue()
    table = Table(title=f"What user {user} watched last")
    table.add_column("title")
    table.add_column("categories")
    if history is not None:
        for row in history[::-1][:LAST_WATCHED]:
            categories = catalogue.table["categories"][int(row)].as_py()
            table.add_row(catalogue.titles[row], ", ".join(categories))
    return table


if __name__ == "__main__":
    main()
