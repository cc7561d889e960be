"""Which configuration to try next: an Optuna study that can be put together again from a record.

A proposal depends on the seed, the number of the trial and what is known when it is asked for, on
nothing else: no generator lives on from one trial to the next. So a search that was killed and
told the same again proposes the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from heliograph.config import HeliographConfig
from heliograph_tune.distributions import Drawn
from heliograph_tune.memory import FORGETS_AT, remembered
from heliograph_tune.records import Asked, Finished, Record
from heliograph_tune.search_file import SearchConfig, is_minimised
from heliograph_tune.space import Space

POPULATION = 20
"""Of NSGA-II: searches here have tens or hundreds of trials, not thousands."""


Together = dict[str, BaseDistribution]
"""Settings that are drawn together, as every trial has them.

Optuna would find out which these are by looking through all trials, for each proposal anew.
"""


class TogetherTPE(TPESampler):
    """TPE that is told what it draws together."""

    def __init__(self, seed: int, together: Together) -> None:
        super().__init__(seed=seed)
        self._together = together

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Together:
        """See `TPESampler`."""
        return self._together


class OrderedNSGAII(NSGAIISampler):
    """NSGA-II that is told what it draws together, and whose parents stand in order of number.

    Optuna has them in another order when they are first selected, and a resumed search selects them
    at another moment.
    """

    def __init__(self, seed: int, together: Together) -> None:
        super().__init__(seed=seed, population_size=POPULATION)
        self._together = together

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Together:
        """See `NSGAIISampler`."""
        return self._together

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """See `NSGAIISampler`."""
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


class Proposer:
    """Proposes trials and learns from their ends."""

    def __init__(self, settings: SearchConfig, space: Space) -> None:
        self.settings = settings
        self.space = space
        self.study = self._new_study()
        self._places: dict[int, int] = {}  # number of a trial -> its number in the study

    def propose(self, number: int, seed: int, attempt: int = 0) -> Asked:
        """Propose the trial of a number.

        Args:
            number: Of the trial.
            seed: That the trial is run with.
            attempt: Each one draws something else.
        """
        if attempt == 0:
            self._forget()
        self.study.sampler = self._sampler(number, attempt)
        trial = self.study.ask()
        settings = self.space.draw(trial)
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        self._places[number] = trial.number
        return Asked(
            number=number,
            seed=seed,
            settings=settings,
            drawn=self.space.drawn_for(settings),
            attributes=dict(frozen.system_attrs),
        )

    def reject(self, asked: Asked) -> dict[str, Drawn]:
        """Learn that a proposal is no valid configuration; returns what was drawn for it.

        It counts as worse than everything that was run: whoever forgot it would draw it again.
        """
        place = self._places.pop(asked.number)
        self.study.tell(place, state=TrialState.PRUNED)
        return dict(asked.drawn or {})

    def note(self, asked: Asked) -> None:
        """Learn of a trial that was handed out without being proposed here and now."""
        if asked.drawn is None:
            return
        self._forget()
        for drawn in asked.rejected:
            self._add(drawn, TrialState.PRUNED)
        self._places[asked.number] = len(self.study.get_trials(deepcopy=False))
        self._add(asked.drawn, TrialState.RUNNING, system_attrs=asked.attributes)

    def learn(self, finished: Finished) -> None:
        """Learn from the end of a trial."""
        place = self._places.get(finished.number)
        if place is None:
            return
        values = self.values_of(finished)
        if values is None:
            self.study.tell(place, state=TrialState.FAIL)
        elif (reached := _reached(finished, values)) is not None:
            running = self.study.get_trials(deepcopy=False)[place]
            trial = optuna.Trial(self.study, running._trial_id)
            for step, value in reached.items():
                trial.report(value, step)
            self.study.tell(place, state=TrialState.PRUNED)
        else:
            self.study.tell(place, list(values))

    def learn_all(self, record: Record) -> None:
        """Learn everything that a record says of the search itself."""
        for number, asked in sorted(record.asked.items()):
            if asked.phase == "search":
                self.note(asked)
                if number in record.finished:
                    self.learn(record.finished[number])

    def warm_up(self, earlier: Record, config: HeliographConfig) -> int:
        """Learn from the trials of another run that lie within this space; returns how many.

        Args:
            earlier: What happened in it.
            config: The configuration that it searched: what a trial did not draw it had from there.
        """
        known, fixed = 0, self.space.settings_of(config)
        for asked in earlier.of("search"):
            settings = fixed | asked.settings
            drawn = self.space.drawn_for(settings) if asked.member is None else None
            values = self.values_of(end := earlier.finished[asked.number])
            if drawn is None or values is None:
                continue
            if (reached := _reached(end, values)) is not None:
                self._add(drawn, TrialState.PRUNED, intermediate_values=reached)
            else:
                self._add(drawn, TrialState.COMPLETE, values=values)
            known += 1
        return known

    def values_of(self, finished: Finished) -> Sequence[float] | None:
        """Return a trial's value of each objective; None where one is missing."""
        if finished.state == "failed":
            return None
        values = [finished.metrics.get(objective) for objective in self.settings.objectives]
        return None if None in values else [value for value in values if value is not None]

    def _add(
        self,
        drawn: Mapping[str, Drawn],
        state: TrialState,
        *,
        values: Sequence[float] | None = None,
        intermediate_values: dict[int, float] | None = None,
        system_attrs: dict[str, Any] | None = None,
    ) -> None:
        """Add a trial that was not proposed here."""
        self.study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=values,
                params=dict(drawn),
                distributions=self.space.distributions(drawn),
                intermediate_values=intermediate_values,
                system_attrs=system_attrs,
            )
        )

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(
            directions=[
                "minimize" if is_minimised(objective) else "maximize"
                for objective in self.settings.objectives
            ],
            sampler=RandomSampler(seed=self.settings.seed),
        )

    def _forget(self) -> None:
        """Go on with fewer trials where TPE knows so many that proposals would take long.

        It is done before a trial of a number is proposed or noted, so that a search that was killed
        forgets the same.
        """
        trials = self.study.get_trials(deepcopy=False)
        if self.settings.searcher != "tpe" or len(trials) < FORGETS_AT:
            return
        kept = remembered(trials, self.study.directions)
        places = {trial.number: place for place, trial in enumerate(kept)}
        self._places = {
            number: places[before] for number, before in self._places.items() if before in places
        }
        self.study = self._new_study()
        self.study.add_trials(kept)

    def _sampler(self, number: int, attempt: int) -> BaseSampler:
        entropy = [self.settings.seed, number, attempt]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        match self.settings.searcher:
            case "random":
                return RandomSampler(seed=seed)
            case "tpe":
                several = len(self.settings.objectives) > 1  # then each is drawn for itself
                return TogetherTPE(seed, {} if several else self.space.together)
            case "nsga2":
                return OrderedNSGAII(seed, self.space.together)


def _reached(finished: Finished, values: Sequence[float]) -> dict[int, float] | None:
    """Return the last step of a trial that was ended early, and its value there.

    Such a trial counts by that value, behind those that went further. None for all others.
    """
    if finished.state not in ("stopped", "cut") or len(values) != 1:
        return None
    return {finished.steps[-1].step if finished.steps else 0: values[0]}
