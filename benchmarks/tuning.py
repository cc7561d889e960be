"""What searches cost and gain: overhead over plain Ray Tune, scaling, ASHA, a better pipeline.

Run it with `python benchmarks/tuning.py [overhead] [scale] [pipeline] [asha] [promotion]`; the
figures of groups that are not asked for stay in the file as they were.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from ray import tune
from ray.tune import TuneError
from rich.console import Console

from heliograph.cluster import ray_cluster
from heliograph.config import SOURCE_NAMES, HeliographConfig
from heliograph.display import StageProgress
from heliograph.workspace import InputError, write_json
from heliograph_tune.commands import console
from heliograph_tune.prepare import Prepared
from heliograph_tune.progress import SearchProgress, best_table
from heliograph_tune.promote import promote
from heliograph_tune.records import Asked, Finished, Record, Report, Step
from heliograph_tune.run_folder import create_run, newest_run
from heliograph_tune.search import run_prepared, run_search
from heliograph_tune.search_file import BY_EPOCH, SECONDS, Search, parse_search
from heliograph_tune.standings import standings
from heliograph_tune.trials_to_run import BASELINE
from heliograph_tune.version import code_version

ROOT = Path(__file__).resolve().parent.parent
TRIALS = 200
OBJECTIVE_S = 0.01
SCALE_TRIALS = 16
SCALE_TRIAL_S = 4.0
STARTING = 10
"""Trials that are not counted in the pace of a search: its workers start meanwhile."""

RACE_EPOCHS = 18
"""Of a trial that is not stopped; ASHA compares at 4 and 12."""

RACE_SHAPE = ("models.item_lm.hidden_size=32", "models.item_lm.heads=1")
RACE_SPACE = {
    "train.lr": {"type": "log_uniform", "low": 1e-4, "high": 3e-2},
    "train.dropout": {"type": "uniform", "low": 0, "high": 0.8},
    "train.weight_decay": {"type": "log_uniform", "low": 1e-3, "high": 1},
}
"""As wide as one draws it who does not know yet: most of it is bad."""

ASHA_TRIALS = 200
"""More than ASHA has the epochs for."""

SAME = 1e-6
"""Scores of one training in two processes lie this close together."""


@dataclass(frozen=True)
class Sleeps:
    """A judge that takes as long as it is told to."""

    seconds: float

    def judge(
        self, config: HeliographConfig, ks: tuple[int, ...], checkpoint: Path, report: Report
    ) -> dict[str, float]:
        """See `heliograph_tune.judges.Judge`."""
        time.sleep(self.seconds)
        return {BY_EPOCH: config.models.als.regularization}


def main() -> None:
    """Measure what is asked for, all of it by default."""
    groups: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "overhead": overhead,
        "scale": scale,
        "pipeline": pipeline,
        "asha": asha,
        "promotion": promotion,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*groups, []], help="default: all")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3], help="of asha and promotion"
    )
    parser.add_argument("--configurations", type=int, default=24, help="that FIFO trains for asha")
    parser.add_argument("--trials", type=int, default=2000, help="of each pipeline search")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "tuning.json")
    parser.add_argument("--config", default=str(ROOT / "examples/movielens/movielens.yaml"))
    arguments = parser.parse_args()
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for name in arguments.groups or groups:
        began = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": code_version(),
        }
        found[name] = began | groups[name](arguments)
        print(name, found[name])
        write_json(arguments.out, found)


def overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time 200 trials of 10 ms, two at once, here and in plain Ray Tune."""
    with ray_cluster():
        plain_trials(2)  # what Ray does once, it does before
        plain = timed(lambda: plain_trials(TRIALS))
        ours = timed(lambda: our_trials(TRIALS, OBJECTIVE_S, concurrency=2))
    return {"trials": TRIALS, "plain_s": plain, "ours_s": ours, "ratio": ours / plain}


def scale(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time a search of equal trials on one worker and on two."""
    with ray_cluster():
        our_trials(2, OBJECTIVE_S, concurrency=2)
        one, two = (
            timed(lambda: our_trials(SCALE_TRIALS, SCALE_TRIAL_S, concurrency))  # noqa: B023
            for concurrency in (1, 2)
        )
    return {"trials": SCALE_TRIALS, "one_s": one, "two_s": two, "speedup": one / two}


def asha(arguments: argparse.Namespace) -> dict[str, Any]:
    """Count the epochs that random search needs to the best score of a FIFO search, with ASHA.

    Both propose the same configurations, and ASHA has the epochs that FIFO took: nothing depends on
    how fast the machine is. Trial 0, with which both begin, is left out: neither has found it.
    """
    seeds = {seed: compared(arguments, seed) for seed in arguments.seeds}
    medians = {
        name: statistics.median(
            math.inf if row[name] is None else row[name] for row in seeds.values()
        )
        for name in ("fifo_epochs", "fifo_epochs_to_best", "asha_epochs_to_goal", "share")
    }
    return {
        "configurations": arguments.configurations,
        "epochs_a_trial": RACE_EPOCHS,
        "seeds": seeds,
        "median": {name: None if math.isinf(found) else found for name, found in medians.items()},
    }


def compared(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run both searches; `share` is of the epochs that FIFO trained in all."""
    fifo = Course()
    follow(race(arguments.config, seed, "fifo", arguments.configurations), fifo)
    goal = max(fifo.scores)
    asha = Course(goal, len(fifo.scores))
    follow(race(arguments.config, seed, "asha", ASHA_TRIALS), asha)
    reached = epochs_to(goal, asha.scores)
    return {
        "fifo_epochs": len(fifo.scores),
        "fifo_best": goal,
        "fifo_epochs_to_best": epochs_to(goal, fifo.scores),
        "asha_epochs": len(asha.scores),
        "asha_best": max(asha.scores),
        "asha_epochs_to_goal": reached,
        "share": reached and reached / len(fifo.scores),
    }


def race(config: str, seed: int, scheduler: str, trials: int) -> Search:
    """Return a search by epochs: what the clock says must not decide when a trial ends."""
    content = {
        "name": f"benchmark-{scheduler}-{seed}",
        "config": config,
        "overrides": [f"train.epochs={RACE_EPOCHS}", "train.max_minutes=null", *RACE_SHAPE],
        "search": "item_lm",
        "space": RACE_SPACE,
        "searcher": "random",
        "scheduler": scheduler,
        "seed": seed,
        "budget": {"trials": 1 + trials, "concurrency": 2},
        "repeat": {"best": 0},
    }
    return parse_search(content, "benchmark")


class RaceIsOver(Exception):
    """A search has reached what it is to reach, or has had its epochs."""


class Course:
    """The validation NDCG@10 of every epoch of a search but for those of trial 0, as they end.

    Args:
        goal: Score at which the search may end.
        epochs: Those that it has, at most.
    """

    def __init__(self, goal: float = math.inf, epochs: float = math.inf) -> None:
        self.goal, self.epochs = goal, epochs
        self.scores: list[float] = []

    def watch(self, number: int, event: Asked | Finished | Step) -> None:
        """See `heliograph_tune.search.Watch`."""
        if isinstance(event, Step) and number != BASELINE:
            self.scores.append(event.values[BY_EPOCH])
            if self.is_over():
                raise RaceIsOver

    def is_over(self) -> bool:
        """Tell whether the goal is reached or the epochs are used up."""
        return max(self.scores) >= self.goal - SAME or len(self.scores) >= self.epochs


def follow(search: Search, course: Course) -> None:
    """Run a search until its race is over."""
    with StageProgress(console) as stages:
        try:
            run_search(search, create_run(search), stages, course.watch)
        except TuneError:  # Ray wraps whatever ends it
            if not course.is_over():
                raise


def epochs_to(goal: float, scores: Sequence[float]) -> int | None:
    """Return how many epochs it took to a score; None: it was not reached."""
    return next((n for n, score in enumerate(scores, 1) if score >= goal - SAME), None)


def pipeline(arguments: argparse.Namespace) -> dict[str, Any]:
    """Count the cheap trials a second of a pipeline whose weights are drawn, as a user runs it.

    The table is drawn, as on a terminal. `growth` is the time of a trial in the last quarter over
    that in the first: 1 means that a search of many trials does not become slower.
    """
    content = yaml.safe_load((ROOT / "tune" / "movielens-pipeline.yaml").read_text())
    lists = {path: drawn for path, drawn in content["space"].items() if "candidates" in path}
    weight = {"type": "log_uniform", "low": 0.01, "high": 1}
    weights = {f"candidates.weights.{source}": weight for source in SOURCE_NAMES}
    content |= {
        "config": arguments.config,
        "space": lists | weights,
        "budget": {"trials": arguments.trials, "concurrency": 2},
        "repeat": {"best": 0},
    }
    found: dict[str, Any] = {"trials": arguments.trials}
    for searcher in ("random", "tpe"):
        changes = {"name": f"benchmark-pipeline-{searcher}", "searcher": searcher}
        search = parse_search(content | changes, "benchmark")
        folder = create_run(search)
        with open(os.devnull, "w") as nowhere:
            screen = Console(file=nowhere, force_terminal=True)
            with (
                StageProgress(console) as stages,
                SearchProgress(screen, search, folder.record()) as trials,
            ):
                record = run_search(search, folder, stages, trials.watch)
        found[searcher] = pace(record)
    return found


def pace(record: Record) -> dict[str, float]:
    """Return the trials a second, and what else a trial took than its own work.

    Trials that were known are not counted. The first ones wait for Ray and its workers and are
    left out.
    """
    ends = sorted(
        (end for end in record.finished.values() if end.state == "done"),
        key=lambda end: end.spent_s,
    )[STARTING:]
    times = [end.spent_s for end in ends]
    quarter = len(times) // 4
    wall = (times[-1] - times[0]) / (len(times) - 1)
    work = statistics.fmean(end.metrics[SECONDS] for end in ends)
    return {
        "trials_per_s": 1 / wall,
        "trial_ms": 1000 * work,
        "overhead_ms": 1000 * (wall - work / 2),  # two are at work at once
        "growth": (times[-1] - times[-1 - quarter]) / (times[quarter] - times[0]),
    }


def promotion(arguments: argparse.Namespace) -> dict[str, Any]:
    """Search how the item LM is trained, and compare the winner with the default configuration.

    Each seed of the searcher is a search of its own: what one of them gains may be luck. What was
    killed goes on where it was.
    """
    content = yaml.safe_load((ROOT / "tune" / "movielens.yaml").read_text())
    return {"seeds": {seed: promoted(content, arguments, seed) for seed in arguments.seeds}}


def promoted(content: dict[str, Any], arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run one search and promote its winner; without test items where nothing was better."""
    changes = {"name": f"benchmark-promotion-{seed}", "config": arguments.config, "seed": seed}
    search = parse_search(content | changes, "benchmark")
    try:
        folder = newest_run(search)
    except InputError:  # it is the first time
        folder = create_run(search)
    with StageProgress(console) as stages:
        record = run_search(search, folder, stages, lambda n, e: None)
    console.print(best_table(search, record))
    took = {"trials": len(record.finished), "minutes": record.spent_s / 60}
    if standings(search, record)[0].is_baseline:
        return took | {"settings": {}}
    with StageProgress(console) as stages:
        found = promote(folder, stages, against=Path(arguments.config))
    return took | {
        "settings": found.settings,
        "test_ndcg_before": found.ndcg_before,
        "test_ndcg": found.ndcg,
        "low": found.difference.low,
        "high": found.difference.high,
        "p_value": found.difference.p_value,
    }


def our_trials(trials: int, seconds: float, concurrency: int) -> None:
    """Run a random search whose trials sleep."""
    with tempfile.TemporaryDirectory() as folder:
        search = sleeping_search(Path(folder), trials, concurrency)
        run_prepared(search, create_run(search), Prepared(Sleeps(seconds), {}), lambda n, e: None)


def sleeping_search(folder: Path, trials: int, concurrency: int) -> Search:
    """Return a search over nothing in particular."""
    config = {
        "name": "sleeps",
        "workspace": "workspace",
        "items": {"path": "none", "format": "csv"},
        "events": {"path": "none", "format": "csv"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    content = {
        "name": "sleeps",
        "config": str(folder / "config.yaml"),
        "search": "als",
        "space": {"models.als.regularization": {"type": "uniform", "low": 0, "high": 1}},
        "searcher": "random",
        "budget": {"trials": trials, "concurrency": concurrency},
        "repeat": {"best": 0},
    }
    return parse_search(content, "benchmark")


def plain_trials(trials: int) -> None:
    """Run as many trials in Ray Tune as it comes, silent and without anything around it."""

    def objective(config: dict[str, float]) -> None:
        time.sleep(OBJECTIVE_S)
        tune.report({"score": config["x"]})

    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(objective, {"cpu": 1}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                num_samples=trials, max_concurrent_trials=2, reuse_actors=True
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
