"""A search from beginning to end: prepare, search, repeat the best, write the table.

Ray Tune runs the trials and its schedulers stop them. What it would remember in its own files is
not used: a run goes on from the journal, which holds every trial that was handed out and every one
that ended, so it does not matter who was killed, or when.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from heliograph.cluster import ray_cluster
from heliograph.config_file import dump_config
from heliograph.stages import Report as BuildReport
from heliograph.workspace import InputError
from heliograph_tune.disk import room_on_disk
from heliograph_tune.loggers import require_loggers, write_trial
from heliograph_tune.population import without_heirs
from heliograph_tune.prepare import Prepared, prepare
from heliograph_tune.proposer import Proposer
from heliograph_tune.records import Asked, Event, Finished, Journal, Over, Record, Step
from heliograph_tune.run_folder import RunFolder, earlier_run, locked
from heliograph_tune.schedulers import fifo, scheduler_of
from heliograph_tune.search_file import Search
from heliograph_tune.setting import with_settings
from heliograph_tune.standings import standings
from heliograph_tune.table import write_trials
from heliograph_tune.trials_to_run import (
    by_score,
    population_trials,
    repeat_trials,
    search_trials,
)
from heliograph_tune.tuner import concurrency_of, run_trials
from heliograph_tune.worker import Task

Watch = Callable[[int, Asked | Finished | Step], None]
"""Hears what happens to the trial of a number, after it has been written down."""


@dataclass(frozen=True)
class Sitting:
    """One process's work on a run."""

    search: Search
    folder: RunFolder
    record: Record
    journal: Journal
    watch: Watch

    def write(self, event: Event) -> None:
        """Write an event down, then let everybody know of it."""
        self.journal.append(event)
        self.record.note(event)
        for number in self._served(event):
            shutil.rmtree(self.folder.checkpoint(number), ignore_errors=True)
        if isinstance(event, Finished):
            for logger in self.search.settings.loggers:
                write_trial(logger, self.folder.path, self.record.asked[event.number], event)
        if not isinstance(event, Over):
            self.watch(event.number, event)

    def _served(self, event: Event) -> Iterable[int]:
        """Return trials whose checkpoints nobody goes on from after an event."""
        if isinstance(event, Over):
            return self.record.asked
        if not isinstance(event, Finished):
            return ()
        if self.record.asked[event.number].member is None:
            return (event.number,)
        return without_heirs(self.record, self.search.settings.pbt.population)


def run_search(search: Search, folder: RunFolder, report: BuildReport, watch: Watch) -> Record:
    """Run a search, or what is left of it.

    Args:
        search: What to do.
        folder: Of the run; what is in it is not done again.
        report: Is told of the stages before the first trial.
        watch: Is told of every trial.

    Returns:
        The record of the whole run.

    Raises:
        InputError: Somebody else is at work in the folder, the data has changed, a trial does not
            fit into the cluster, the disk is full, the package of a logger is missing, or every
            trial has failed.
    """
    require_loggers(search.settings.loggers)
    with locked(folder.path / "lock", "searching"):
        if (record := folder.record()).is_complete:
            return record
        with ray_cluster(), room_on_disk(folder.path):
            concurrency_of(search.settings)  # refused before models are fitted for it
            prepared = prepare(search, folder, report)
            with prepared.surroundings():
                return run_prepared(search, folder, prepared, watch)


def run_prepared(search: Search, folder: RunFolder, prepared: Prepared, watch: Watch) -> Record:
    """Run a search whose trials can begin, in a folder that is locked and on Ray that runs."""
    folder.check_inputs(prepared.inputs)
    with Journal(folder.journal) as journal:
        record = folder.record()
        task = Task(search.settings, search.config, folder.path, prepared.judge)
        sitting = Sitting(search, folder, record, journal, watch)
        try:
            if "search" not in record.over:
                _search(sitting, task)
            if not record.is_complete:
                _repeat(sitting, task)
        finally:
            with suppress(OSError):  # of a full disk; the journal has it all, and it comes first
                write_trials(record, search.config, folder.path)
    return record


def _search(sitting: Sitting, task: Task) -> None:
    search, record = sitting.search, sitting.record
    settings = search.settings
    proposer = Proposer(settings, search.space)
    if (earlier := earlier_run(search)) is not None:
        earlier.check_learned_from(sitting.folder.inputs())
        proposer.warm_up(earlier.record(), earlier.search().config)
    proposer.learn_all(record)

    def write(event: Event) -> None:
        sitting.write(event)
        if isinstance(event, Finished):
            proposer.learn(event)

    trials: Iterator[Asked | None] = search_trials(search, record, proposer, write)
    if settings.uses_pbt:
        trials = population_trials(search, record, write)
    seconds = settings.budget.minutes and 60 * settings.budget.minutes
    scheduler = scheduler_of(search, record)
    run_trials(trials, task, scheduler, seconds, record.spent_s, write, sitting.watch)
    if not by_score(search, record):
        errors = [end.error for end in record.finished.values() if end.error]
        reason = f"the first error: {errors[0]}" if errors else "the time was too short for one"
        raise InputError(f"no trial of {len(record.finished)} came to a result; {reason}")
    write(Over(phase="search"))


def _repeat(sitting: Sitting, task: Task) -> None:
    trials = repeat_trials(sitting.search, sitting.record, sitting.write)
    spent = sitting.record.spent_s
    run_trials(trials, task, fifo(), None, spent, sitting.write, sitting.watch)
    winner = sitting.record.asked[standings(sitting.search, sitting.record)[0].number]
    best = with_settings(sitting.search.config, winner.settings)
    sitting.folder.best.write_text(dump_config(best))
    sitting.write(Over(phase="repeat"))
