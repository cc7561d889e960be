"""The charts of a run's report, from its record."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from heliograph_tune.charts import Axis, Line, dots, height_of, lines, parallel
from heliograph_tune.distributions import Choice, Distribution, Integer, LogUniform
from heliograph_tune.pareto import front, scored
from heliograph_tune.population import last_epoch, latest
from heliograph_tune.progress import as_text, short
from heliograph_tune.records import Asked, Record
from heliograph_tune.search_file import BY_EPOCH, Search, is_minimised

MOST_AXES = 8
"""Settings that parallel coordinates have room for."""


def best_by_trial(search: Search, record: Record) -> Markup:
    """Draw the score of every trial, and the best so far."""
    objective = search.settings.objectives[0]
    better = min if is_minimised(objective) else max
    points: list[tuple[float, float]] = []
    names: list[str] = []
    so_far: list[int] = []
    for asked in record.of("search"):
        score = record.score(asked.number, objective)
        if score is None:
            continue
        points.append((float(asked.number), score))
        names.append(f"trial {asked.number}: {score:.4f}, {as_text(asked.told)}")
        if not so_far or better(score, points[so_far[-1]][1]) != points[so_far[-1]][1]:
            so_far.append(len(points) - 1)
    label = f"{objective} of {len(points)} trials in order; the line joins each new best one"
    return dots(points, names, so_far, label, "trial", objective)


def learning_curves(search: Search, record: Record, winner: int) -> Markup | None:
    """Draw what trials reported step by step."""
    curves = [
        Line(f"trial {asked.number}: {as_text(asked.told)}", points, asked.number == winner)
        for asked in record.of("search")
        if (points := _curve(search, record, asked, winner))
    ]
    if not curves:
        return None
    label = f"{BY_EPOCH} by epoch of {len(curves)} trials; that of the best one stands out"
    return lines(curves, label, "epoch", f"validation {BY_EPOCH}")


def parameters(search: Search, record: Record, winner: int) -> Markup | None:
    """Draw every trial as a line over its settings and its score."""
    objective = search.settings.objectives[0]
    scored = [
        (asked, score)
        for asked in record.of("search")
        if asked.settings and (score := record.score(asked.number, objective)) is not None
    ]
    if not scored:
        return None
    scores = [score for _, score in scored]
    low, high = min(scores), max(scores)
    paths = list(search.space.parameters)[:MOST_AXES]
    axes = [_axis(path, search.space.parameters[path]) for path in paths]
    axes.append(Axis(objective, [(0, f"{low:.4f}"), (1, f"{high:.4f}")]))
    rows = []
    for asked, score in scored:
        values = latest(asked.settings)
        points = [
            (float(place), _height(values[path], search.space.parameters[path]))
            for place, path in enumerate(paths)
            if path in values
        ]
        points.append((float(len(paths)), height_of(score, low, high, log=False)))
        rows.append(Line(f"trial {asked.number}: {score:.4f}", points, asked.number == winner))
    label = f"Settings and {objective} of {len(rows)} trials; the best one stands out"
    return parallel(axes, rows, label)


def pareto(search: Search, record: Record) -> Markup | None:
    """Draw the first two objectives against each other, where there are several."""
    objectives = search.settings.objectives
    found = scored(search, record)
    if len(objectives) < 2 or not found:
        return None
    points = [(values[0], values[1]) for values in found.values()]
    best = [list(found).index(number) for number in front(search, record, 2)]
    ordered = sorted(best, key=lambda place: points[place])
    label = f"{objectives[0]} against {objectives[1]}: {len(best)} trials that none beats in both"
    names = [f"trial {number}: {as_text(record.asked[number].settings)}" for number in found]
    return dots(points, names, ordered, label, objectives[0], objectives[1])


def _curve(search: Search, record: Record, asked: Asked, winner: int) -> list[tuple[float, float]]:
    """Return a trial's curve; of a member of a population from where its parent's ends."""
    first = 0
    if asked.member is not None and asked.number != winner:
        first = last_epoch(search, asked.member.generation - 1)
    steps = record.finished[asked.number].steps
    return [(float(step.step), step.values[BY_EPOCH]) for step in steps if step.step >= first]


def _axis(path: str, distribution: Distribution) -> Axis:
    name = path.rpartition(".")[2]
    if isinstance(distribution, Choice):
        values: list[Any] = list(distribution.values)
    else:
        values = [distribution.low, distribution.high]
    return Axis(name, [(_height(value, distribution), short(value)) for value in values])


def _height(value: Any, distribution: Distribution) -> float:
    if isinstance(distribution, Choice):
        return height_of(distribution.values.index(value), 0, len(distribution.values) - 1, False)
    is_log = isinstance(distribution, LogUniform) or (
        isinstance(distribution, Integer) and distribution.log
    )
    return height_of(value, distribution.low, distribution.high, is_log)
