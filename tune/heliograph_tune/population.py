"""Population-based training: who goes on from whose weights, and with which settings.

Jaderberg et al.: Population Based Training of Neural Networks, arXiv:1711.09846, 2017. Models train
side by side; every few epochs the worst are replaced by copies of the best, whose settings are
changed a little. Here each stretch of a model's training is a trial of its own, whose settings say
all that has led to it: the values it began with, and a schedule of the changes since. So its
checkpoint is a short cut and nothing more, and what wins is a configuration that anybody can train.

Ray Tune's own PopulationBasedTraining remembers in the driver who was copied when, and has no
configuration to show for it at the end.

Everything here follows from the search and the record of the generations before, by seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from heliograph_tune.distributions import Choice, Distribution, Integer
from heliograph_tune.records import Asked, Member, Record
from heliograph_tune.search_file import BY_EPOCH, Search
from heliograph_tune.space import Space

FACTORS = (0.8, 1.2)
"""By which a setting of a copy is multiplied, as in the paper."""

SECTION = "train."
SCHEDULE = "train.schedule"


def last_epoch(search: Search, generation: int) -> int:
    """Return the epoch that a generation ends with, counted from 1; 0 for generation 0."""
    return min(generation * search.settings.pbt.interval, search.config.train.epochs)


def generations(search: Search) -> int:
    """Return how many generations it takes to train for all of `train.epochs`."""
    return -(-search.config.train.epochs // search.settings.pbt.interval)


def most_trials(search: Search) -> int | None:
    """Return how many trials a search has at most, repetitions aside; None: nobody knows."""
    trials = search.settings.budget.trials
    if not search.settings.uses_pbt:
        return trials
    population = search.settings.pbt.population
    allowed = generations(search)
    if trials is not None:
        allowed = min(allowed, (trials - 1) // population)
    return 1 + population * allowed


def generation_of(record: Record, generation: int) -> dict[int, Asked]:
    """Return the members of a generation that were handed out, by place."""
    return {
        asked.member.place: asked
        for asked in record.asked.values()
        if asked.member is not None and asked.member.generation == generation
    }


def follows(search: Search, record: Record, generation: int) -> bool:
    """Tell whether a generation is to be trained after those before it, which have ended.

    Not where epochs, budgeted trials or living models have run out, nor where the best score of
    the whole population is as old as `train.patience` allows.
    """
    if generation > 1 and not any(
        score is not None for score in _scores(record, generation - 1).values()
    ):
        return False
    most, trained = most_trials(search), last_epoch(search, generation - 1)
    if most is not None and 1 + generation * search.settings.pbt.population > most:
        return False
    return trained - _epoch_of_best(record) < search.config.train.patience


def member(search: Search, record: Record, generation: int, place: int) -> Asked:
    """Return the trial of a place in a generation, numbered as the next one."""
    seed = search.settings.seed
    rng = np.random.default_rng([seed, generation, place])
    epochs = last_epoch(search, generation)
    length = {"train.epochs": epochs, "train.patience": epochs, "train.max_minutes": None}
    if generation == 1:
        parent, settings = None, draw(search.space, rng) | {SCHEDULE: []}
    else:
        before = generation_of(record, generation - 1)
        scores = _scores(record, generation - 1)
        chosen = parents([scores[at] for at in sorted(scores)], search.settings.pbt.share, rng)
        source = before[chosen[place]]
        parent, settings = source.number, dict(source.settings)
        if chosen[place] != place:
            settings = _changed(search, settings, 1 + last_epoch(search, generation - 1), rng)
    return Asked(
        number=record.next_number,
        seed=search.config.seed,
        settings=settings | length,
        member=Member(generation=generation, place=place, parent=parent),
    )


def parents(
    scores: Sequence[float | None], share: float, rng: np.random.Generator
) -> dict[int, int]:
    """Say for each place of a population which place it goes on from: truncation selection.

    Args:
        scores: Of each place; None where training failed. One at least is a number.
        share: Of the population that is replaced, at most one half; what failed is replaced anyway.
        rng: Chooses among the best.

    Returns:
        Place -> its own, or that of one of the best.
    """
    alive = sorted(
        (place for place, score in enumerate(scores) if score is not None),
        key=lambda place: (-(scores[place] or 0.0), place),
    )
    failed = [place for place, score in enumerate(scores) if score is None]
    some = max(1, int(share * len(scores)))
    replaced = {*[*alive, *failed][-some:], *failed}
    choices = rng.integers(min(some, len(alive)), size=len(scores))
    return {
        place: alive[choices[place]] if place in replaced else place for place in range(len(scores))
    }


def explore(
    space: Space, values: Mapping[str, Any], resample: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Change every setting of a copy: mostly a little, at times to a value drawn anew."""
    fresh = draw(space, rng)
    return {
        path: fresh[path] if rng.random() < resample else _nearby(distribution, values[path], rng)
        for path, distribution in space.parameters.items()
    }


def draw(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """Draw every setting of a space at random."""
    sampler = optuna.samplers.RandomSampler(seed=int(rng.integers(2**32)))
    return space.draw(optuna.create_study(sampler=sampler).ask())


def latest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the values that hold at the end of their schedule."""
    values = dict(settings)
    for change in settings.get(SCHEDULE) or []:
        values |= {f"{SECTION}{name}": new for name, new in change.items() if name != "epoch"}
    return values


def lineage(record: Record, number: int) -> list[Asked]:
    """Return the trials whose weights a trial has, from the first generation to itself.

    What went before a trial that is missing in the record is missing too.
    """
    asked = record.asked.get(number)
    if asked is None or asked.member is None:
        return []
    above = [] if asked.member.parent is None else lineage(record, asked.member.parent)
    return [*above, asked]


def without_heirs(record: Record, population: int) -> Iterator[int]:
    """Yield the finished members that nobody will go on from any more."""
    for number, asked in record.asked.items():
        if asked.member is None or number not in record.finished:
            continue
        after = generation_of(record, asked.member.generation + 1).values()
        heirs = [heir.number for heir in after if heir.member and heir.member.parent == number]
        is_served = len(after) == population and all(heir in record.finished for heir in heirs)
        if record.finished[number].state != "done" or is_served:
            yield number


def _changed(
    search: Search, settings: dict[str, Any], epoch: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the settings of a copy, changed from an epoch on."""
    before = latest(settings)
    after = explore(search.space, before, search.settings.pbt.resample, rng)
    change = {
        path.removeprefix(SECTION): value for path, value in after.items() if value != before[path]
    }
    schedule = [*settings[SCHEDULE], {"epoch": epoch} | change] if change else settings[SCHEDULE]
    return settings | {SCHEDULE: schedule}


def _nearby(distribution: Distribution, value: Any, rng: np.random.Generator) -> Any:
    """Multiply a number, within its bounds; of a choice, take a neighbour in the list."""
    if isinstance(distribution, Choice):
        places = len(distribution.values)
        place = distribution.values.index(value) + int(rng.choice([-1, 1]))
        return distribution.values[min(max(place, 0), places - 1)]
    scaled = value * float(rng.choice(FACTORS))
    nearest = round(scaled) if isinstance(distribution, Integer) else scaled
    return min(max(nearest, distribution.low), distribution.high)


def _scores(record: Record, generation: int) -> dict[int, float | None]:
    """Return what the weights of each place are worth at the end of a generation.

    That is the last epoch's score and not the best one's: the last weights are what is copied.
    """
    scores: dict[int, float | None] = {}
    for place, asked in generation_of(record, generation).items():
        end = record.finished[asked.number]
        is_alive = end.state == "done" and end.steps
        scores[place] = end.steps[-1].values[BY_EPOCH] if is_alive else None
    return scores


def _epoch_of_best(record: Record) -> int:
    """Return the first epoch of the best score that any member has had; 0 if there is none."""
    found = [
        (step.values[BY_EPOCH], -step.step)
        for number, end in record.finished.items()
        if record.asked[number].member is not None
        for step in end.steps
    ]
    return -max(found)[1] if found else 0
