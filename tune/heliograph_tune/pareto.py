"""Which points no other point beats in everything."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from heliograph_tune.records import Record
from heliograph_tune.search_file import Search, is_minimised


def pareto_front(values: NDArray[np.float64], minimised: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the places of the points that are not dominated, in order.

    A point is dominated by one that is at least as good in every objective and better in one.

    Args:
        values: (points, objectives).
        minimised: (objectives,) true where less is better.
    """
    losses = np.where(minimised, values, -values)
    no_worse = (losses[:, None] <= losses[None]).all(axis=2)
    better = (losses[:, None] < losses[None]).any(axis=2)
    return np.flatnonzero(~(no_worse & better).any(axis=0))


def scored(search: Search, record: Record) -> dict[int, list[float]]:
    """Return the value of every objective of each trial that was run and has them all."""
    objectives = search.settings.objectives
    return {
        asked.number: [score for score in scores if score is not None]
        for asked in record.of("search")
        if None not in (scores := [record.score(asked.number, name) for name in objectives])
        and record.finished[asked.number].state != "known"
    }


def front(search: Search, record: Record, objectives: int) -> list[int]:
    """Return the trials that no other beats in each of the first so many objectives.

    The best one by the first objective comes first.
    """
    found = scored(search, record)
    if not found:
        return []
    numbers = list(found)
    minimised = np.array([is_minimised(name) for name in search.settings.objectives[:objectives]])
    values = np.array(list(found.values()))[:, :objectives]
    sign = 1 if minimised[0] else -1
    places = pareto_front(values, minimised)
    return sorted(
        (numbers[place] for place in places), key=lambda number: (sign * found[number][0], number)
    )
