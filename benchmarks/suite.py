"""The order of the measurements: each group in a process of its own, one after the other, in turns.

A machine that others use too is now faster and now slower, for minutes. What is compared is
therefore measured close together, and then again.

Nothing heavy is imported here, since what this process holds would share its pages with the
graph and make that look smaller.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import Plan, Row, tell
from isolation import exit_on_sigterm, isolated, stderr_in
from machine import cores, describe_machine
from ratios import ratios
from report import write_report
from turns import over_turns

HERE = Path(__file__).resolve().parent
BUNDLES = HERE.parent / "examples" / "movielens" / "workspace" / "bundles"
RUNS = 15
"""Kinds of runs in the largest group, with room to spare."""

LOG = Path("raw") / "stderr.log"
"""Below the results: what Ray, vLLM and others have to say."""

START_S = 900.0
"""What a group may take beside its runs before it counts as hanging."""


def main() -> None:
    """Measure group by group, turn by turn; what has been measured is written after each."""
    exit_on_sigterm()
    arguments = parse_arguments()
    require_bundle(arguments.bundle)
    plan = Plan(arguments.bundle, arguments.seconds, arguments.texts)
    facts = describe_machine() | describe_plan(plan, arguments.turns)
    timeout_s = START_S + RUNS * plan.seconds * 2
    turns: list[list[Row]] = []
    for turn in range(arguments.turns):
        print(f"turn {turn + 1} of {arguments.turns}", flush=True)
        turns.append([])
        for name in arguments.only:
            with stderr_in(arguments.out / LOG):
                turns[-1] += isolated(timeout_s, GROUPS[name], plan)
            compared = over_turns([ratios(rows) for rows in turns])
            write_report(arguments.out, facts, [*compared, *over_turns(turns)])
    for ratio in compared:
        tell(ratio.group, ratio.name, ratio.figures)
    print(f"written to {arguments.out / 'results.md'}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLES, metavar="BUNDLE")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run (default: 3)")
    parser.add_argument("--turns", type=positive, default=3, help="runs of a kind (default: 3)")
    parser.add_argument("--texts", type=int, help="texts to embed (default: the whole catalogue)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    return parser.parse_args()


def require_bundle(path: Path) -> None:
    """End with a remedy if there is no bundle."""
    if not any(path.rglob("manifest.json")):
        sys.exit(
            f"no bundle at {path}; run `heliograph build examples/movielens/movielens.yaml` "
            "first, or pass the path of a bundle"
        )


def positive(text: str) -> int:
    """Read a number of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def describe_plan(plan: Plan, turns: int) -> dict[str, object]:
    """Say how the measurements are taken, for the head of the results."""
    return {
        "bundle": next(plan.bundle.rglob("manifest.json")).parent.name,
        "turns": f"{turns}, with a run of {plan.seconds:g} s of each kind; the median run is shown",
    }


def noop(plan: Plan) -> list[Row]:
    """Measure a Serve deployment that does nothing."""
    from noop import measure_noop

    return measure_noop(plan)


def engine(plan: Plan) -> list[Row]:
    """Measure vLLM, and our ranking engine: as it is served, a thread a core, another process."""
    from engine import measure_engine, measure_raw_engine
    from heliograph.bundle import open_bundle

    settings = open_bundle(plan.bundle).config.serve
    threads = dict.fromkeys([settings.engine_threads, cores()])
    in_process: list[dict[str, Any]] = [
        {"engine": "in_process", "engine_threads": count} for count in threads
    ]
    runs: list[tuple[Callable[..., list[Row]], dict[str, Any]]] = [
        *((measure_raw_engine, variant) for variant in in_process),
        *((measure_engine, variant) for variant in [*in_process, {"engine": "async"}]),
    ]
    # as served comes first
    runs.sort(key=lambda run: run[1]["engine"] != settings.engine)
    timeout_s = START_S + RUNS * plan.seconds
    return [
        row
        for measure, variant in runs
        for row in isolated(timeout_s, measure, plan, settings.model_copy(update=variant))
    ]


def retrieval(plan: Plan) -> list[Row]:
    """Measure FAISS and the retriever."""
    from retrieval import measure_retrieval

    return measure_retrieval(plan)


def graph(plan: Plan) -> list[Row]:
    """Measure the whole graph."""
    from graph import measure_graph

    return measure_graph(plan)


def embedding(plan: Plan) -> list[Row]:
    """Measure the encoder and the stage."""
    from embedding import measure_embedding

    return measure_embedding(plan)


GROUPS: dict[str, Callable[[Plan], list[Row]]] = {
    "noop": noop,
    "engine": engine,
    "retrieval": retrieval,
    "graph": graph,
    "embedding": embedding,
}
"""Each is called in a process of its own."""
