"""What runs in a worker: one trial after the other, each told to Ray Tune as it goes."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliograph.config import HeliographConfig
from heliograph_tune.disk import full, is_full
from heliograph_tune.ending import SearchEndedError
from heliograph_tune.judges import Judge
from heliograph_tune.records import Asked, Report, Step
from heliograph_tune.run_folder import RunFolder
from heliograph_tune.search_file import BEST, SearchConfig, cutoffs
from heliograph_tune.setting import with_settings

STEP = "step"
STARTED = "started"
"""When the trial began in this worker, seconds since 1970."""

NODE = "node"
"""Ray's name of the node that it runs on."""

FINAL = "final"
"""Is in the last report of a trial that came to its end, well or badly."""

ERROR = "error"
STUCK = "stuck"
"""In the report of a trial that cannot go on, nor can any other: what to tell. It has not ended."""

METRIC = "metric."
"""Before the names of metrics of the whole trial."""

VALUE = "value."
"""Before the names of values of a step."""


@dataclass(frozen=True)
class Task:
    """What all trials of a search have in common; kept once in the object store."""

    settings: SearchConfig
    config: HeliographConfig
    folder: Path
    judge: Judge


def run_trial(config: dict[str, Any], task: Task) -> None:
    """Run one trial; an error is its result, so that the search goes on.

    But not where it says nothing of the trial, as that of a full disk: it ends the search.

    Args:
        config: `trial` holds what was asked, as `Asked` has it.
        task: Of all trials.
    """
    import ray
    from ray import tune

    asked = Asked.model_validate(config["trial"])
    started = {STARTED: time.time(), NODE: ray.get_runtime_context().get_node_id()}

    def report(step: Step) -> None:
        tune.report(started | told_as(step))

    try:
        metrics = measure(task, asked, report)
        _check_finite(metrics, task.settings.objectives)
    except Exception as error:  # whatever it is, the next trial may do better
        if (stuck := _why_stuck(task, asked, error)) is not None:
            tune.report(started | {STUCK: stuck})
            return
        tune.report(started | {FINAL: True, ERROR: f"{type(error).__name__}: {error}"})
        return
    values = {f"{METRIC}{name}": value for name, value in metrics.items() if math.isfinite(value)}
    tune.report(started | values | {FINAL: True})


def measure(task: Task, asked: Asked, report: Report) -> dict[str, float]:
    """Run what was asked and return its metrics."""
    config = with_settings(task.config, asked.settings).model_copy(update={"seed": asked.seed})
    folder = RunFolder(task.folder)
    checkpoint = folder.checkpoint(asked.number)
    if asked.member is not None and asked.member.parent is not None:
        _inherit(folder.checkpoint(asked.member.parent), checkpoint)
    return task.judge.judge(config, cutoffs(task.settings.objectives), checkpoint, report)


def _inherit(parent: Path, checkpoint: Path) -> None:
    """Begin where the parent ended; where its checkpoint is gone, training begins at the beginning.

    It comes to the same, because the schedule says what the parent did.
    """
    from heliograph.models.item_lm_run import copy_run, has_run  # torch takes seconds to import

    if has_run(parent) and not has_run(checkpoint):
        copy_run(parent, checkpoint)


def told_as(step: Step) -> dict[str, float]:
    """Say a step in the words of Ray Tune; schedulers judge by `STEP` and `BEST`."""
    values = {f"{VALUE}{name}": value for name, value in step.values.items()}
    return {STEP: step.step, BEST: step.values[BEST], **values}


def step_of(result: Mapping[str, Any]) -> Step:
    """Return the step that was told."""
    values = {
        name.removeprefix(VALUE): float(value)
        for name, value in result.items()
        if name.startswith(VALUE)
    }
    return Step(step=result[STEP], values=values)


def _why_stuck(task: Task, asked: Asked, error: Exception) -> str | None:
    """Say why no trial can go on, such as which disk is full on which machine; None: others can."""
    if isinstance(error, SearchEndedError):
        return str(error)
    if not is_full(error):
        return None
    place = RunFolder(task.folder).checkpoint(asked.number)
    named = error.filename if isinstance(error, OSError) else None
    what = f"trial {asked.number} stopped on {socket.gethostname()}"
    return full(Path(named) if isinstance(named, str) else place, what, error)


def _check_finite(metrics: Mapping[str, float], objectives: tuple[str, ...]) -> None:
    odd = [name for name in objectives if not math.isfinite(metrics.get(name, math.nan))]
    if odd:
        found = ", ".join(f"{name} is {metrics.get(name)}" for name in odd)
        raise ArithmeticError(f"{found}, but an objective must be a finite number")
