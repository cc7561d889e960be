"""The one place that starts Ray Tune."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler

from heliograph.workspace import InputError
from heliograph_tune.ray_searcher import Limit, RaySearcher
from heliograph_tune.records import Asked, Finished, Step
from heliograph_tune.search_file import SearchConfig
from heliograph_tune.worker import Task, run_trial

MAX_FAILURES = 3
"""Times that a trial goes on in another worker when its own dies."""

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal is the log
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # and the state
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is a KeyboardInterrupt, as everywhere
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report of a trial is no step of it
    "RAY_AIR_NEW_OUTPUT": "0",  # which `verbose=0` does not silence
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Switches of Ray Tune."""


def run_trials(
    trials: Iterator[Asked | None],
    task: Task,
    scheduler: TrialScheduler,
    seconds: float | None,
    spent_s: float,
    write: Callable[[Finished], None],
    stepped: Callable[[int, Step], None],
) -> None:
    """Run trials until there are no more or the time is over.

    Args:
        trials: What to run; None where none can be before another has ended.
        task: What all of them share.
        scheduler: May stop them early.
        seconds: Of wall time that may be spent; None: as many as it takes.
        spent_s: Of wall time that has been spent in earlier sittings.
        write: Writes the end of a trial down.
        stepped: Hears of the steps of the trial of a number.

    Raises:
        InputError: The trials do not fit into the cluster, or an end cannot be written down.
    """
    first = next(trials, None)
    if first is None:
        return
    os.environ.update(ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    budget = task.settings.budget
    searcher = RaySearcher(chain([first], trials), write, stepped, budget, spent_s)
    with tempfile.TemporaryDirectory(prefix="heliograph-tune-") as storage:
        trainable = tune.with_parameters(run_trial, task=task)
        resources = {"cpu": budget.cpus, "gpu": budget.gpus}
        tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=concurrency_of(task.settings),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=storage,
                verbose=0,
                stop=Limit(searcher, seconds),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            ),
        ).fit()
    if searcher.failure is not None:
        raise searcher.failure
    searcher.cut()


def concurrency_of(settings: SearchConfig) -> int:
    """Return how many trials run at once.

    Raises:
        InputError: The cluster has no room for one trial, or for as many as are asked for.
    """
    budget, there = settings.budget, ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
    rooms = [int(cpus / budget.cpus)]
    if budget.gpus:
        rooms.append(int(gpus / budget.gpus))
    room, wanted = min(rooms), settings.at_once or 1
    if room < wanted:
        raise InputError(
            f"{wanted} trials at once, of {budget.cpus:g} CPUs and {budget.gpus:g} GPUs each, do "
            f"not fit into the Ray cluster of {cpus:g} CPUs and {gpus:g} GPUs; lower "
            "budget.concurrency, budget.cpus or budget.gpus, or enlarge the cluster"
        )
    return settings.at_once or room
