"""Which trials a run still has to hand out, from what its record says.

Whoever takes a trial from here may be killed at any moment: a trial is written down before it is
handed out, and one that is written down and has not ended is handed out again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from heliograph.config_file import ConfigError
from heliograph_tune.distributions import Drawn
from heliograph_tune.goal import is_judged, merit
from heliograph_tune.population import follows, generation_of, generations, member
from heliograph_tune.proposer import Proposer
from heliograph_tune.records import Asked, Event, Finished, Record, State, key_of
from heliograph_tune.repetition import seeds
from heliograph_tune.search_file import Search
from heliograph_tune.setting import with_settings
from heliograph_tune.version import code_version

FRUITLESS = 200
"""Draws in a row that need not or cannot be run, after which a space counts as used up."""

REDRAWS = 100
"""Draws that are no valid configuration, after which a trial is made of the next one, whatever it
is. Of a space that was not refused, about every other draw is valid."""

Write = Callable[[Event], None]

BASELINE = 0
"""Number of the trial of the configuration as it stands."""


def search_trials(
    search: Search, record: Record, proposer: Proposer, write: Write
) -> Iterator[Asked]:
    """Yield the trials of the search, those first that were at work when it was interrupted."""
    yield from [asked for asked in record.open if asked.phase == "search"]
    most, fruitless = search.settings.budget.trials, 0
    first = {_key(search, asked): number for number, asked in sorted(record.asked.items())[::-1]}
    while (most is None or len(record.asked) < most) and fruitless < FRUITLESS:
        asked = _next(search, record, proposer)
        write(asked)
        earlier = first.setdefault(_key(search, asked), asked.number)
        end = _known_end(search, asked, record.finished.get(earlier))
        if end is None:
            fruitless = 0
            yield asked
        else:
            fruitless += 1
            write(end)


def population_trials(search: Search, record: Record, write: Write) -> Iterator[Asked | None]:
    """Yield a population's trials, generation after generation, and the configuration as it stands.

    Where a generation has been handed out and not ended, None: the next one depends on all of it.
    """
    yield from [asked for asked in record.open if asked.phase == "search"]
    if BASELINE not in record.asked:
        asked = Asked(number=BASELINE, seed=search.config.seed, settings={})
        write(asked)
        yield asked
    for generation in range(1, 1 + generations(search)):
        if not follows(search, record, generation):
            return
        for place in range(search.settings.pbt.population):
            if place not in generation_of(record, generation):
                asked = member(search, record, generation, place)
                write(asked)
                yield asked
        members = generation_of(record, generation).values()
        while any(asked.number not in record.finished for asked in members):
            yield None


def repeat_trials(search: Search, record: Record, write: Write) -> Iterator[Asked]:
    """Yield the best configurations and the one as it stands, each with other seeds."""
    yield from [asked for asked in record.open if asked.phase == "repeat"]
    there = {(asked.repeats, asked.seed) for asked in record.asked.values()}
    for number in to_repeat(search, record):
        for seed in range(1, seeds(search) + 1):
            if (number, search.config.seed + seed) in there:
                continue
            asked = Asked(
                number=record.next_number,
                phase="repeat",
                repeats=number,
                seed=search.config.seed + seed,
                settings=record.asked[number].settings,
            )
            write(asked)
            yield asked


def to_repeat(search: Search, record: Record) -> list[int]:
    """Return the trials whose configurations are run again, the best one first."""
    if seeds(search) == 0:
        return []
    ranked = [number for number in by_score(search, record) if number != BASELINE]
    as_it_stands = [BASELINE] if BASELINE in record.asked else []
    return ranked[: search.settings.repeat.best] + as_it_stands


def by_score(search: Search, record: Record) -> list[int]:
    """Return the trials of the search by their merit, the best one first.

    One of each configuration; none that its scheduler has stopped, since it was not judged like the
    others. What time has cut counts as far as it came. Of a population, each course of training
    once: up to the generation that last made it better.
    """
    settings = search.settings
    merits = {
        asked.number: merit(settings, metrics)
        for asked in record.of("search")
        if record.finished[asked.number].state in ("done", "cut")
        and is_judged(settings, metrics := record.finished[asked.number].metrics)
    }
    return sorted(_courses(record, merits), key=lambda number: (merits[number], number))


def _courses(record: Record, merits: Mapping[int, tuple[float, ...]]) -> Iterator[int]:
    """Yield trials that are better than what they went on from, and than what went on from them."""
    best = dict(merits)
    parents = {
        number: asked.member.parent
        for number, asked in record.asked.items()
        if asked.member is not None and asked.member.parent in merits
    }
    for number in sorted(merits, reverse=True):  # whoever goes on from a trial has a higher number
        parent = parents.get(number)
        if parent is not None:
            best[parent] = min(best[parent], best[number])
    for number, merit_of_it in merits.items():
        parent = parents.get(number)
        is_progress = parent is None or merit_of_it < merits[parent]
        if is_progress and merit_of_it == best[number]:
            yield number


def _next(search: Search, record: Record, proposer: Proposer) -> Asked:
    """Return the next trial of the search.

    A draw that is no valid configuration costs no trial: another one is drawn in its place.
    """
    seed = search.config.seed
    if BASELINE in record.asked:
        rejected: list[dict[str, Drawn]] = []
        asked = proposer.propose(record.next_number, seed)
        while len(rejected) < REDRAWS and _problem(search, asked) is not None:
            rejected.append(proposer.reject(asked))
            asked = proposer.propose(record.next_number, seed, len(rejected))
        return asked.model_copy(update={"rejected": tuple(rejected)})
    drawn = search.space.drawn_for(search.space.settings_of(search.config))
    asked = Asked(number=BASELINE, seed=seed, settings={}, drawn=drawn)
    proposer.note(asked)
    return asked


def _known_end(search: Search, asked: Asked, earlier: Finished | None) -> Finished | None:
    """Return the end of a trial that need not be run, or cannot.

    Args:
        search: Of the trial.
        asked: The trial.
        earlier: End of the first trial of the same configuration, if it has ended.
    """
    if earlier is not None and earlier.state == "done":
        return _end(asked, "known", earlier.metrics, None)
    if earlier is not None and earlier.state == "failed":
        return _end(asked, "failed", {}, f"as trial {earlier.number} did: {earlier.error}")
    problem = _problem(search, asked)
    return None if problem is None else _end(asked, "failed", {}, problem)


def _problem(search: Search, asked: Asked) -> str | None:
    """Say why the settings of a trial are no valid configuration, if they are none."""
    try:
        with_settings(search.config, asked.settings)
    except ConfigError as error:
        return str(error)
    return None


def _key(search: Search, asked: Asked) -> str:
    settings = asked.settings or search.space.settings_of(search.config)
    return key_of(settings, asked.seed)


def _end(asked: Asked, state: State, metrics: dict[str, float], error: str | None) -> Finished:
    return Finished(
        number=asked.number,
        state=state,
        metrics=metrics,
        error=error,
        version=code_version(),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        spent_s=0,
    )
