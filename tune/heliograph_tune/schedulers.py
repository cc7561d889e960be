"""Who stops bad trials early: Ray Tune's schedulers, told what earlier sittings have seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from heliograph_tune.distributions import Choice
from heliograph_tune.records import Finished, Record
from heliograph_tune.search_file import BEST, Search
from heliograph_tune.worker import STEP, told_as


class Fifo(FIFOScheduler):
    """Lets every trial run to its end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Choose none: Ray Tune starts what waits by itself.

        The inherited method looks through all trials of the search, several times for each one.
        """


def fifo() -> TrialScheduler:
    """Return a scheduler that lets every trial run to its end."""
    return Fifo()


def scheduler_of(search: Search, record: Record) -> TrialScheduler:
    """Return the scheduler of a search, which knows the trials of a record already."""
    asha, longest = search.settings.asha, most_epochs(search)
    if not search.settings.uses_asha or longest <= asha.grace_epochs:
        return fifo()
    scheduler = ASHAScheduler(
        time_attr=STEP,
        metric=BEST,
        mode="max",
        max_t=longest - 1,  # at its last epoch a trial is whole: nobody stops it there
        grace_period=asha.grace_epochs,
        reduction_factor=asha.reduction,
        stop_last_trials=False,
    )
    for number, finished in sorted(record.finished.items()):
        if record.asked[number].phase == "search":
            _remember(scheduler, finished)
    return scheduler


def most_epochs(search: Search) -> int:
    """Return the epochs of the longest trial."""
    epochs = search.space.parameters.get("train.epochs")
    if epochs is None:
        return search.config.train.epochs
    return int(max(epochs.values) if isinstance(epochs, Choice) else epochs.high)


def _remember(scheduler: TrialScheduler, finished: Finished) -> None:
    """Report a finished trial's steps to a scheduler that has not seen them."""
    trial: Any = SimpleNamespace(trial_id=f"before-{finished.number}")
    nobody: Any = None  # ASHA asks nothing of its controller
    scheduler.on_trial_add(nobody, trial)
    for step in finished.steps:
        scheduler.on_trial_result(nobody, trial, told_as(step))
