"""How much each source's evidence counts beside the item LM, by length of history.

The final score of an item is `log P(item | history) + sum_s weight_s evidence_s`, a product of
experts: the item LM reads the sequence, the sources count. The weights of a cohort are fitted on
validation (`ranking.fitting`) and travel in the bundle; a source of weight 0 is off, and the item
LM is not even asked where it did not help.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from heliograph.config import SOURCE_NAMES, SourceName
from heliograph.interactions import History


@dataclass(frozen=True)
class Cohort:
    """The users whose histories have at least `shortest` items and fewer than the next cohort's."""

    shortest: int
    weights: Mapping[SourceName, float]
    """Of the evidence of each source beside the item LM; one that is not named has weight 0."""

    alone: Mapping[SourceName, float]
    """Of the same where the item LM is not asked or does not answer."""

    item_lm: bool = True
    """Whether the item LM is asked."""


class Blend:
    """The weights of every cohort."""

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        """Take cohorts in order of length. An empty history is none of theirs: it says nothing."""
        self.cohorts = tuple(cohorts)
        self._shortest = np.array([cohort.shortest for cohort in cohorts])
        self._weights = _matrix([cohort.weights for cohort in cohorts])
        self._alone = _matrix([cohort.alone for cohort in cohorts])
        self._item_lm = np.array([False, *(cohort.item_lm for cohort in cohorts)])

    @classmethod
    def uniform(cls, weights: Mapping[SourceName, float]) -> Self:
        """Return the same weights for everyone."""
        return cls([Cohort(1, weights, weights)])

    @classmethod
    def parse(cls, rows: Sequence[Mapping[str, Any]]) -> Self:
        """Read what `dump` wrote."""
        return cls(
            [Cohort(row["shortest"], row["weights"], row["alone"], row["item_lm"]) for row in rows]
        )

    def dump(self) -> list[dict[str, Any]]:
        """Return the cohorts as what JSON can hold."""
        return [
            {
                "shortest": cohort.shortest,
                "weights": dict(cohort.weights),
                "alone": dict(cohort.alone),
                "item_lm": cohort.item_lm,
            }
            for cohort in self.cohorts
        ]

    def weights(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Return (histories, sources) weights beside the item LM, in order of `SOURCE_NAMES`."""
        chosen: NDArray[np.float32] = self._weights[self._rows(histories)]
        return chosen

    def alone(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Return (histories, sources) weights without the item LM."""
        chosen: NDArray[np.float32] = self._alone[self._rows(histories)]
        return chosen

    def asks_item_lm(self, histories: Sequence[History]) -> NDArray[np.bool_]:
        """Return (histories,) whether the item LM has a say."""
        asked: NDArray[np.bool_] = self._item_lm[self._rows(histories)]
        return asked

    def asks_item_lm_about(self, history: History) -> bool:
        """Return whether the item LM has a say on one history."""
        cohort = bisect_right(self.cohorts, len(history), key=lambda one: one.shortest)
        return len(history) > 0 and self.cohorts[max(cohort, 1) - 1].item_lm

    def _rows(self, histories: Sequence[History]) -> NDArray[np.int64]:
        lengths = np.array([len(history) for history in histories], np.int64)
        found = np.searchsorted(self._shortest, lengths, side="right")
        found[lengths > 0] = np.maximum(found[lengths > 0], 1)  # shorter than all: the first
        return np.asarray(found, np.int64)


def _matrix(rows: Sequence[Mapping[SourceName, float]]) -> NDArray[np.float32]:
    """Return (1 + cohorts, sources): the first row is for empty histories, popularity alone."""
    first: Mapping[SourceName, float] = {"popularity": 1.0}
    weights = [[row.get(name, 0.0) for name in SOURCE_NAMES] for row in (first, *rows)]
    return np.array(weights, np.float32)
