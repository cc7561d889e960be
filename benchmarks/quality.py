"""Measures how well heliograph recommends next to published figures, over several seeds.

Run it with `python benchmarks/quality.py beauty FOLDER` or `... ml-1m FOLDER`; the folder is
described in benchmarks/quality/DATASET.yaml. Every seed is a build of its own in the work folder:
interrupted, it goes on where it was, and what has been built is not built again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from heliograph.build import STAGES, Build
from heliograph.bundle import open_bundle
from heliograph.config_file import load_config
from heliograph.display import StageProgress
from machine import describe_machine
from published import PUBLISHED, SEQUENCES

HERE = Path(__file__).resolve().parent
METRICS = ("recall@10", "ndcg@10")
"""Of one held-out item a user the recall is the hit rate."""

Metrics = Mapping[str, Mapping[str, dict[str, dict[str, float]]]]
"""Fit -> `models` -> model -> metric."""

FITS = {"test": "fitted on train only", "refit": "refitted on train + validation"}


def main() -> None:
    """Build every seed, then print and write the table."""
    arguments = parse_arguments()
    found = [build(arguments, seed) for seed in arguments.seeds]
    lines = [*head(arguments), *table(arguments.dataset, found)]
    print("\n".join(lines))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"quality-{arguments.dataset}.md").write_text("\n".join(lines) + "\n")
    rows = [{fit: entry[fit]["models"] for fit in FITS} for entry in found]
    record = {"machine": describe_machine(), "seeds": arguments.seeds, "runs": rows}
    path = arguments.out / f"quality-{arguments.dataset}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", choices=PUBLISHED)
    parser.add_argument("data", type=Path, metavar="FOLDER", help="items.tsv and the sequences")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=HERE / "builds", help="folder of the builds")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    return parser.parse_args()


def build(arguments: argparse.Namespace, seed: int) -> Metrics:
    """Build one seed; returns its evaluation."""
    folder = arguments.data.resolve()
    overrides = [
        f"items.path={folder / 'items.tsv'}",
        f"events.path={folder / SEQUENCES[arguments.dataset]}",
        f"workspace={arguments.work.resolve() / f'{arguments.dataset}-{seed}'}",
        f"seed={seed}",
        *arguments.overrides,
    ]
    config = load_config(HERE / "quality" / f"{arguments.dataset}.yaml", overrides)
    console = Console(stderr=True)
    console.print(f"[bold]{arguments.dataset}, seed {seed}[/bold]")
    with StageProgress(console) as report, Build(config, report) as stages:
        for run in STAGES.values():
            run(stages)
    return open_bundle(config.workspace / "bundles").metrics()


def head(arguments: argparse.Namespace) -> list[str]:
    """Say what the table is."""
    seeds = ", ".join(map(str, arguments.seeds))
    return [
        f"# {arguments.dataset}: quality",
        "",
        f"Printed by `python benchmarks/quality.py {arguments.dataset} FOLDER`; seeds {seeds},",
        "mean and standard deviation. Leave-one-out, all items ranked, seen items masked; settings",
        "were chosen on validation.",
        "",
    ]


def table(dataset: str, found: Sequence[Metrics]) -> list[str]:
    """Lay out published rows and this project's."""
    lines = ["| | HR@10 | NDCG@10 |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {hit} | {ndcg} |" for name, hit, ndcg in PUBLISHED[dataset]]
    for fit, title in FITS.items():
        models = found[0][fit]["models"]
        order = sorted(models, key=lambda name: models[name][METRICS[1]])
        for model in order:
            cells = (
                spread([run[fit]["models"][model][metric] for run in found]) for metric in METRICS
            )
            lines.append(f"| heliograph {model}, {title} | {' | '.join(cells)} |")
    return lines


def spread(values: Sequence[float]) -> str:
    """Show a mean and, of several values, their standard deviation."""
    mean = f"{np.mean(values):.4f}".lstrip("0")
    if len(values) < 2:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.4f}".replace("± 0.", "± .")


if __name__ == "__main__":  # every process that is started from here imports this file again
    main()
