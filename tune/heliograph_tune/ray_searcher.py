"""Between Ray Tune and the journal: hands out trials, and writes down what becomes of them.

Ray Tune runs trials; it remembers nothing here. Everything that a search must know after a kill is
written down before Ray Tune hears of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from heliograph.workspace import InputError
from heliograph_tune.records import Asked, Finished, State, Step
from heliograph_tune.search_file import BEST, BY_EPOCH, Budget
from heliograph_tune.version import code_version
from heliograph_tune.worker import ERROR, FINAL, METRIC, NODE, STARTED, STEP, STUCK, step_of


class RaySearcher(Searcher):
    """Hands the trials of one phase out to Ray Tune."""

    def __init__(
        self,
        trials: Iterator[Asked | None],
        write: Callable[[Finished], None],
        stepped: Callable[[int, Step], None],
        budget: Budget,
        spent_s: float,
    ) -> None:
        """Begin a phase.

        Args:
            trials: To be handed out; None where none can be before another has ended.
            write: Writes the end of a trial down.
            stepped: Hears of the steps of the trial of a number.
            budget: Of the search.
            spent_s: Wall time of the budget that is used up already.
        """
        super().__init__()
        self.trials = trials
        self.write = write
        self.stepped = stepped
        self.budget = budget
        self.failure: InputError | None = None
        """Why the phase ended; kept, because Ray Tune drops what its searchers raise. Nothing is
        written down after it: what was at work then is run again with --resume."""

        self._began = time.monotonic() - spent_s
        self._running: dict[str, Asked] = {}
        self._steps: dict[int, dict[int, Step]] = {}
        self._last: dict[int, Mapping[str, Any]] = {}

    @property
    def spent_s(self) -> float:
        """Wall time of the budget that is used up."""
        return time.monotonic() - self._began

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Hand a trial out, to be run as the trial of this id; None: ask again later."""
        finished: dict[str, Any] = cast(Any, Searcher.FINISHED)  # a word: no trial at all
        try:
            asked = next(self.trials) if self.failure is None else None
        except StopIteration:
            return finished
        except InputError as error:
            self.failure = error
        if self.failure is not None:
            return finished
        if asked is None:
            return None
        self._running[trial_id] = asked
        self._steps[asked.number], self._last[asked.number] = {}, {}
        return {"trial": asked.model_dump(mode="json")}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note what a trial reports."""
        number = self._running[trial_id].number
        self._last[number] = result
        if STUCK in result and self.failure is None:
            self.failure = InputError(result[STUCK])
        if STEP in result and FINAL not in result:
            step = step_of(result)
            self._steps[number][step.step] = step
            self.stepped(number, step)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note the end of a trial: its own, by its scheduler, or by its worker's death."""
        if result is not None:
            self.on_trial_result(trial_id, result)
        asked = self._running.pop(trial_id)
        if error:
            self._finish(asked, "failed", "its worker died again and again")
        else:
            self._finish(asked, "stopped", None)

    def cut(self) -> None:
        """Note the end of trials that were at work when time ran out."""
        for asked in self._running.values():
            self._finish(asked, "cut", None)
        self._running.clear()

    def save(self, checkpoint_path: str) -> None:
        """Leave nothing to Ray Tune."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Take nothing from Ray Tune."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _finish(self, asked: Asked, state: State, error: str | None) -> None:
        """Write an end down; what the trial said of its own end counts more than `state`."""
        last = self._last.pop(asked.number)
        steps = tuple(self._steps.pop(asked.number).values())
        if self.failure is not None:
            return
        if FINAL in last:
            state, error = ("failed", last[ERROR]) if ERROR in last else ("done", None)
        finished = Finished(
            number=asked.number,
            state=state,
            metrics=_metrics(last, steps),
            steps=steps,
            seconds=max(time.time() - last[STARTED], 0) if STARTED in last else 0,
            cpus=self.budget.cpus,
            gpus=self.budget.gpus,
            node=str(last.get(NODE, "")),
            error=error,
            version=code_version(),
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            spent_s=self.spent_s,
        )
        try:
            self.write(finished)
        except InputError as failure:
            self.failure = failure


class Limit(Stopper):
    """Ends a phase when its time is over or its searcher has failed."""

    def __init__(self, searcher: RaySearcher, seconds: float | None) -> None:
        self.searcher = searcher
        self.seconds = seconds

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Never end one trial alone."""
        return False

    def stop_all(self) -> bool:
        """Tell whether the phase is over."""
        late = self.seconds is not None and self.searcher.spent_s >= self.seconds
        return late or self.searcher.failure is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _metrics(last: Mapping[str, Any], steps: Sequence[Step]) -> dict[str, float]:
    """Return the metrics of the whole trial, or of its best step where it was ended before."""
    if FINAL not in last and steps:
        return {BY_EPOCH: max(step.values[BEST] for step in steps)}
    return {
        name.removeprefix(METRIC): float(value)
        for name, value in last.items()
        if name.startswith(METRIC)
    }
