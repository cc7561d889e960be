"""What holds of answers besides relevance: who may come back, who is raised, and by how much.

A score is in nats, as log-probabilities are: the item LM's is one, the evidence of the sources is
fitted to stand beside it, and popularity is the logarithm of a count. So a boost of w nats means
the same in every tier: the odds of an item against the others change by e ** w.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heliograph.attributes import Attribute, Attributes, FieldError, named
from heliograph.candidates import Candidates, popular_candidates
from heliograph.config import Freshness, Rules
from heliograph.filter_parser import parse_filter
from heliograph.filters import Filter

NEGLIGIBLE = 0.01
"""Nats: what changes odds by less than a percent counts as nothing."""

STEPS_A_HALF_LIFE = 256
"""Ages are taken at so many moments a half-life, so that answers do not change in between."""

DAY_US = 86_400_000_000
NOTHING = np.zeros(0, np.int32)

Consumed = Literal["exclude", "allow", "only"]


@dataclass(frozen=True)
class WeightedFilter:
    """A boost: nats for all items that match."""

    filter: Filter
    weight: float


@dataclass(frozen=True)
class CapOn:
    """At most so many items of an answer may share a value of a column."""

    column: str
    limit: int


@dataclass(frozen=True)
class Plan:
    """Rules that have been read against a catalogue; equal plans do the same."""

    filter: Filter | None = None
    consumed: Consumed = "exclude"
    upcoming: bool = False
    boosts: tuple[WeightedFilter, ...] = ()
    freshness: Freshness | None = None
    caps: tuple[CapOn, ...] = ()
    diversity: float = 0.0

    @property
    def raises(self) -> bool:
        """Whether something is added to scores."""
        return bool(self.boosts or self.freshness)

    @property
    def chooses(self) -> bool:
        """Whether an answer is chosen from a pool, not just the top of the ranking."""
        return bool(self.caps or self.diversity)


def read_rules(rules: Rules, attributes: Attributes, place: str = "") -> Plan:
    """Read rules against the columns of a catalogue.

    Args:
        rules: As they came.
        attributes: Of the catalogue.
        place: Stands before the name of a rule in messages, such as `serve.rules.`.

    Raises:
        FieldError: A rule does not fit the catalogue; names the place.
    """
    for column in rules.caps:
        attributes.kind(column, f"{place}caps.{named(column)}")
    if rules.freshness is not None:
        _require_times(rules.freshness.column, attributes, f"{place}freshness.column")
    return Plan(
        parse_filter(rules.filter, attributes, f"{place}filter") if rules.filter else None,
        rules.consumed,
        rules.upcoming,
        tuple(
            WeightedFilter(
                parse_filter(boost.filter, attributes, f"{place}boosts.{n}.filter"), boost.weight
            )
            for n, boost in enumerate(rules.boosts)
        ),
        rules.freshness,
        tuple(CapOn(column, limit) for column, limit in rules.caps.items()),
        rules.diversity,
    )


class Releases:
    """When the items come out that are not out yet."""

    def __init__(self, times: Attribute | None, n_items: int, now_us: float) -> None:
        """Take the times of `available_from`; an item without one is out."""
        first = np.full(n_items, np.inf)
        if times is not None:
            np.minimum.at(first, times.rows, times.entries.to_numpy())
        later = np.flatnonzero((first > now_us) & np.isfinite(first))
        self._items = later[np.argsort(first[later], kind="stable")].astype(np.int32)
        self._times_us = first[self._items]
        self.last_us = float(self._times_us[-1]) if len(later) else -np.inf

    def waiting(self, now_us: float) -> NDArray[np.int32]:
        """Return the numbers of the items that come out after a moment."""
        return self._items[np.searchsorted(self._times_us, now_us, side="right") :]


def freshness_nats(
    times: Attribute, freshness: Freshness, n_items: int, now_us: float
) -> NDArray[np.float32]:
    """Return (items,) nats: the weight, halved with every half-life of an item's age.

    What is not out yet counts as new, what has no time gets nothing, and of several times the
    latest counts.
    """
    latest = np.full(n_items, -np.inf)
    np.maximum.at(latest, times.rows, times.entries.to_numpy())
    ages = np.maximum(now_us - latest, 0) / (freshness.half_life_days * DAY_US)
    return (freshness.weight * np.exp2(-ages)).astype(np.float32)


def moment_of(freshness: Freshness, now_us: float) -> float:
    """Return the moment that ages are taken at: the last of those a fixed step apart."""
    step = freshness.half_life_days * DAY_US / STEPS_A_HALF_LIFE
    return float(now_us // step * step)


class Bonus:
    """What boosts and freshness add to the scores of all items."""

    def __init__(self, nats: NDArray[np.float32], popularity: NDArray[np.float32]) -> None:
        """Keep what is worth adding.

        Args:
            nats: (items,) to add.
            popularity: (items,) logarithms of counts.
        """
        self.nats = np.where(np.abs(nats) >= NEGLIGIBLE, nats, 0).astype(np.float32)
        self.items = np.flatnonzero(self.nats).astype(np.int32)
        scores = popularity + self.nats
        self.order = np.argsort(-scores, kind="stable").astype(np.int32)
        """(items,) all items, by popularity with what is added, best first."""


@dataclass(frozen=True)
class Evidence:
    """What is added to the item LM's log-probabilities."""

    items: NDArray[np.int32]
    """(raised,) item numbers."""

    nats: NDArray[np.float32]
    """(raised,)"""


def raised(candidates: Evidence, bonus: Bonus, barred: NDArray[np.bool_]) -> Evidence:
    """Add the bonus to the evidence of candidates, and to that of all others, which is 0.

    Args:
        candidates: Items with their evidence.
        bonus: To add.
        barred: (items,), true where an item may not come back.
    """
    is_other = ~barred
    is_other[candidates.items] = False
    others = bonus.items[is_other[bonus.items]]
    return Evidence(
        np.concatenate([candidates.items, others]),
        np.concatenate([candidates.nats + bonus.nats[candidates.items], bonus.nats[others]]),
    )


def boosted(candidates: Candidates, bonus: Bonus, barred: NDArray[np.bool_]) -> Candidates:
    """Add the bonus to the scores of candidates; others come in where that lifts them high enough.

    What is no candidate has the score of the last one at most, and is given just that; as many as
    there are candidates are tried, those first that are first by popularity with the bonus.

    Args:
        candidates: A one-row batch.
        bonus: To add.
        barred: (items,), true where an item may not come back.

    Returns:
        A one-row batch, best first, longer than what came where there are others.
    """
    listed = candidates.items[0]
    is_other = ~barred
    is_other[listed] = False
    others = popular_candidates(bonus.order, len(listed), NOTHING, is_other)
    lowest = candidates.scores.min(initial=np.inf)
    others = replace(others, scores=np.full_like(others.scores, lowest))
    joined = candidates.followed_by(others)
    joined = replace(joined, scores=joined.scores + bonus.nats[joined.items])
    return joined.take(np.argsort(-joined.scores[0], kind="stable"))


def _require_times(column: str, attributes: Attributes, place: str) -> None:
    stored = attributes.kind(column, place)
    if stored in ("time", None):
        return
    if stored != "text" or not len(attributes.read(column, "time").rows):
        raise FieldError(
            place, f"{column} holds no times; name a column of timestamps or ISO 8601 text"
        )
