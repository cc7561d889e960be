"""One race: environments, data, then one system after the other, each in its own process."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from environments import peer_python
from isolation import isolated
from machine import cores, describe_machine
from prepare import DATASETS, Prepared, prepare
from standings import Standing, ratio, read_dump, table
from task import Order

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE.parent
PREPARE_S = 3600.0
OURS = "heliograph item LM"
VERSIONS = {"recbole": "RecBole 1.2.1 SASRec", "rectools": "RecTools 0.19 SASRec"}


@dataclass(frozen=True)
class Race:
    """What the systems share."""

    work: Path
    target: float
    check_s: float
    threads: int
    seed: int
    max_length: int


def main() -> None:
    """Race all systems, then print and write the table."""
    arguments = parse_arguments()
    work = arguments.work.resolve() / f"training-{arguments.dataset}"
    work.mkdir(parents=True, exist_ok=True)
    pythons = {name: peer_python(name, arguments.work.resolve()) for name in arguments.peers}
    facts = describe_machine() | {"threads": arguments.threads}
    data = arguments.data and arguments.data.resolve()
    prepared = isolated(
        PREPARE_S, prepare, arguments.dataset, data, work, arguments.seed, arguments.ids_only
    )
    standings = run(arguments, pythons, prepared, work)
    lines = [*head(arguments, facts, prepared), *table(standings)]
    print("\n".join(lines))
    write(arguments, facts, prepared, standings, lines)


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, or these words of one."""
    parser = argparse.ArgumentParser(description="Wall time of training until a validation NDCG@10")
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument(
        "data", type=Path, nargs="?", metavar="FOLDER", help="items.tsv and sequences.txt of beauty"
    )
    parser.add_argument("--target", type=float, help="validation NDCG@10; default by dataset")
    parser.add_argument("--limit", type=float, default=3.5, help="of a peer, times our time")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ids-only", action="store_true", help="no item texts for our model")
    parser.add_argument("--peers", nargs="*", choices=VERSIONS, default=list(VERSIONS))
    parser.add_argument(
        "--max-seconds", type=float, help="of training, for every system: to try things out"
    )
    parser.add_argument("--check-seconds", type=float, default=10.0, help="between validations")
    parser.add_argument("--work", type=Path, default=BENCHMARKS / "builds")
    parser.add_argument("--out", type=Path, default=BENCHMARKS / "results")
    arguments = parser.parse_args(words)
    if (arguments.data is None) == (arguments.dataset == "beauty"):
        need = "needs the FOLDER of its files" if arguments.data is None else "takes no FOLDER"
        parser.error(f"{arguments.dataset} {need}: benchmarks/training/README.md")
    if arguments.target is None:
        arguments.target = DATASETS[arguments.dataset].target
    return arguments


def run(
    arguments: argparse.Namespace, pythons: dict[str, Path], prepared: Prepared, work: Path
) -> list[Standing]:
    """Run our system, then the peers for so many times our time."""
    dataset = DATASETS[arguments.dataset]
    dropouts = {"recbole": dataset.recbole_dropout, "rectools": dataset.rectools_dropout}
    race = Race(
        work,
        arguments.target,
        arguments.check_seconds,
        arguments.threads,
        arguments.seed,
        prepared.max_length,
    )
    ceiling = arguments.max_seconds or float("inf")
    mine = train("item_lm", OURS, Path(sys.executable), race, min(prepared.limit_s, ceiling), None)
    limit_s = min((mine.reached_s or mine.trained_s) * arguments.limit, ceiling)
    peers = [
        train(name, VERSIONS[name], python, race, limit_s, dropouts[name])
        for name, python in pythons.items()
    ]
    return [mine, *peers]


def train(
    name: str, system: str, python: Path, race: Race, limit_s: float, dropout: float | None
) -> Standing:
    """Run the driver of a system to its end.

    Raises:
        subprocess.CalledProcessError: The driver failed; it has told why.
    """
    folder = race.work / name
    folder.mkdir(exist_ok=True)
    order = Order(
        task=str(race.work),
        work=str(folder),
        dump=str(folder / "validations.jsonl"),
        target=race.target,
        limit_s=limit_s,
        check_s=race.check_s,
        threads=race.threads,
        max_length=race.max_length,
        dropout=dropout,
        seed=race.seed,
    )
    order.save(folder / "order.json")
    print(f"{system}: at most {limit_s:.0f} s of training", file=sys.stderr, flush=True)
    threads = str(race.threads)
    subprocess.run(
        [str(python), str(HERE / f"{name}_driver.py"), str(folder / "order.json")],
        check=True,
        cwd=folder,  # RecBole writes logs to where it is
        stdout=sys.stderr,
        env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    return Standing(system, read_dump(Path(order.dump)), race.target)


def head(arguments: argparse.Namespace, facts: dict[str, object], prepared: Prepared) -> list[str]:
    """Say what the table is, and what it was taken on."""
    texts = "no item texts" if arguments.ids_only else "item texts as vectors, made before"
    machine = ("date", "commit", "CPU", "cores", "threads", "load average at the start")
    return [
        f"# {arguments.dataset}: training time",
        "",
        "Seconds of training until a validation NDCG@10, one system after the other in one run of",
        f"`python benchmarks/training.py {arguments.dataset}`; see benchmarks/training/README.md.",
        "",
        *(f"- {name}: {facts[name]}" for name in machine),
        f"- data: {prepared.events:,} training events, {prepared.items:,} items, "
        f"{prepared.users:,} validated users",
        f"- seed {arguments.seed}; ours: {texts}; peers stop at {arguments.limit:g} x our time",
        "",
    ]


def write(
    arguments: argparse.Namespace,
    facts: dict[str, object],
    prepared: Prepared,
    standings: Sequence[Standing],
    lines: Sequence[str],
) -> None:
    """Write the table, and everything behind it as JSON."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"training-{arguments.dataset}.md"
    path.write_text("\n".join(lines) + "\n")
    rows = [
        asdict(standing) | {"reached_s": standing.reached_s, "ratio": ratio(standing, standings[0])}
        for standing in standings
    ]
    options = {
        name: getattr(arguments, name)
        for name in ("target", "limit", "seed", "ids_only", "check_seconds")
    }
    record = {"machine": facts, "data": asdict(prepared), "options": options, "systems": rows}
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
