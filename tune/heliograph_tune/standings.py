"""Who has won: the configuration with the best mean over its repetitions, or the best trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heliograph_tune.goal import is_judged, merit
from heliograph_tune.records import Record
from heliograph_tune.search_file import Search
from heliograph_tune.trials_to_run import BASELINE, by_score, to_repeat


@dataclass(frozen=True)
class Standing:
    """One configuration, as far as it has been judged."""

    number: int
    """Of its trial in the search."""

    score: float
    """Of the first objective in the search."""

    repeated: tuple[float, ...]
    """The same with other seeds."""

    metrics: Mapping[str, float]
    """What decides: the mean of each metric over the repetitions, where there are any."""

    @property
    def mean(self) -> float:
        """The mean of the first objective over the repetitions, where there are any."""
        return sum(self.repeated) / len(self.repeated) if self.repeated else self.score

    @property
    def is_baseline(self) -> bool:
        """Whether it is the configuration as it stands."""
        return self.number == BASELINE


def standings(search: Search, record: Record) -> list[Standing]:
    """Return the configurations that may be promoted, the winner first."""
    again = _again(search, record)
    found = [
        _standing(search, record, number, again.get(number, []))
        for number in to_repeat(search, record) or by_score(search, record)
        if record.score(number, search.settings.objectives[0]) is not None
    ]
    judged = [standing for standing in found if standing.repeated] or found
    return sorted(
        judged, key=lambda standing: (merit(search.settings, standing.metrics), standing.number)
    )


def standing_of(search: Search, record: Record, number: int) -> Standing:
    """Put together what is known of a configuration that was run, whether it was judged or not."""
    return _standing(search, record, number, _again(search, record).get(number, []))


def _standing(
    search: Search, record: Record, number: int, again: Sequence[Mapping[str, float]]
) -> Standing:
    objective, metrics = search.settings.objectives[0], record.finished[number].metrics
    return Standing(
        number,
        metrics.get(objective, math.nan),
        tuple(one[objective] for one in again),
        _means(again) if again else metrics,
    )


def _again(search: Search, record: Record) -> dict[int, list[dict[str, float]]]:
    """Return the metrics of each configuration's repetitions, as far as they were judged."""
    found: dict[int, list[dict[str, float]]] = {}
    for number, asked in record.asked.items():
        end = record.finished.get(number)
        if asked.repeats is None or end is None or end.state == "failed":
            continue
        if is_judged(search.settings, end.metrics):
            found.setdefault(asked.repeats, []).append(end.metrics)
    return found


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that every row has."""
    return {
        name: sum(row[name] for row in rows) / len(rows)
        for name in rows[0]
        if all(name in row for row in rows)
    }
