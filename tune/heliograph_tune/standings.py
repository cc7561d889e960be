"""Who has won: the configuration with the best mean over its repetitions, or the best trial."""

from __future__ import annotations

from dataclasses import dataclass

from heliograph_tune.records import Record
from heliograph_tune.search_file import Search, is_minimised
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

    @property
    def mean(self) -> float:
        """What decides: the mean of the repetitions, where there are any."""
        return sum(self.repeated) / len(self.repeated) if self.repeated else self.score

    @property
    def is_baseline(self) -> bool:
        """Whether it is the configuration as it stands."""
        return self.number == BASELINE


def standings(search: Search, record: Record) -> list[Standing]:
    """Return the configurations that may be promoted, the winner first."""
    objective = search.settings.objectives[0]
    found = []
    for number in to_repeat(search, record) or by_score(search, record):
        score = record.score(number, objective)
        repeated = [
            value
            for other, asked in record.asked.items()
            if asked.repeats == number and (value := record.score(other, objective)) is not None
        ]
        if score is not None:
            found.append(Standing(number, score, tuple(repeated)))
    judged = [standing for standing in found if standing.repeated] or found
    sign = 1 if is_minimised(objective) else -1
    return sorted(judged, key=lambda standing: (sign * standing.mean, standing.number))
