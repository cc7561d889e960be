"""The rules of requests: those of the configuration, changed by what a request says.

The thinking is in `heliograph.rules` and `heliograph.selection`; here stands what a replica of the
ingress keeps for it. A request without rules, under a configuration without any, passes by.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from heliograph.attributes import Attribute, Attributes
from heliograph.candidates import Candidates, popular_candidates
from heliograph.catalog import Catalogue
from heliograph.config import Freshness, Rules
from heliograph.explanation import TermName
from heliograph.filters import And, Filter, evaluate, joined
from heliograph.index import mask_of
from heliograph.interactions import History
from heliograph.models.popularity import Popularity
from heliograph.rules import (
    Bonus,
    Plan,
    Releases,
    WeightedFilter,
    freshness_nats,
    moment_of,
    read_rules,
)
from heliograph.selection import Cap, Diversity, Groups, relevance_of, select
from heliograph_serve.api import RecommendationRequest, Tier
from heliograph_serve.retrieve import Lookup, eligible_of

RULES = frozenset(Rules.model_fields)
AVAILABLE_FROM = "available_from"
CONFIGURED = "serve.rules."
"""What the rules of the configuration are called in messages."""

SMALLEST_POOL, LARGEST_POOL, POOL_FACTOR = 100, 1000, 4
"""An answer of n items is chosen from the first 4n of the ranking, but from 100 to 1000 of them."""

NOTHING = np.zeros(0, np.int32)

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Arranged:
    """The items of an answer."""

    candidates: Candidates
    """A one-row batch, in the order of the answer."""

    keeps_caps: bool
    """False where places were left that no item within the caps could take."""


class Vectors(Protocol):
    """Text vectors, looked up by number."""

    def __getitem__(self, rows: NDArray[np.int32], /) -> NDArray[np.float32]:
        """Return (rows, dim)."""
        ...


class ChangedVectors:
    """Vectors of which some are others now, and some came behind; what they were stays mapped."""

    def __init__(
        self,
        mapped: NDArray[np.float32],
        n_items: int,
        numbers: NDArray[np.int32],
        vectors: NDArray[np.float32],
    ) -> None:
        """Take (items, dim) vectors and the (numbers, dim) ones that stand for some of them."""
        self._mapped = mapped
        self._vectors = vectors
        self._place_of = np.full(n_items, -1, np.int32)
        self._place_of[numbers] = np.arange(len(numbers))

    def __getitem__(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return (rows, dim)."""
        found = np.asarray(self._mapped[np.minimum(rows, len(self._mapped) - 1)])
        places = self._place_of[rows]
        changed = places >= 0
        found[changed] = self._vectors[places[changed]]
        return found


class RuleBook:
    """Reads the rules of requests and keeps what they need of the catalogue."""

    def __init__(
        self,
        catalogue: Catalogue,
        popularity: Popularity,
        vectors: Vectors,
        configured: Rules,
        unavailable: NDArray[np.int32] = NOTHING,
    ) -> None:
        """Take what rules depend on.

        Args:
            catalogue: Its columns are what filters and caps name.
            popularity: Of the same items.
            vectors: (items, dim) text vectors of length 1.
            configured: The rules of requests that say nothing.
            unavailable: Numbers of items that must not come back.

        Raises:
            FieldError: The configured rules do not fit the catalogue.
        """
        self.attributes = catalogue.attributes
        self.popularity = popularity
        self.vectors = vectors
        self.configured = configured
        self.plan = read_rules(configured, self.attributes, CONFIGURED)
        self.releases = Releases(_release_times(self.attributes), len(catalogue), _now_us())
        self._available = _without(unavailable, len(catalogue))
        self._by_popularity = popularity.ranking
        if self._available is not None:
            self._by_popularity = popularity.ranking[self._available[popularity.ranking]]
        self._matching = lru_cache(maxsize=64)(self._evaluate)
        self._groups = lru_cache(maxsize=16)(self._group)
        self._bonus = lru_cache(maxsize=16)(self._add_up)

    def are_named(self, request: RecommendationRequest) -> bool:
        """Tell whether a request says anything of rules; else the configured plan holds."""
        return not RULES.isdisjoint(request.model_fields_set)

    def read(self, request: RecommendationRequest) -> Plan:
        """Return the rules that hold of a request.

        Raises:
            FieldError: One of them does not fit the catalogue.
        """
        named = RULES & request.model_fields_set
        given = {name: getattr(request, name) for name in named}
        plan = read_rules(self.configured.model_copy(update=given), self.attributes)
        if "filter" in named and self.plan.filter is not None:
            filters = [one for one in (self.plan.filter, plan.filter) if one is not None]
            return replace(plan, filter=joined(And, filters))
        return plan

    def excluded(self, plan: Plan, history: History, named: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return what must not come back: what was consumed, what is named, what is not out yet."""
        parts = [history] if plan.consumed == "exclude" else []
        if len(named):
            parts.append(named)
        now_us = _now_us()
        if now_us < self.releases.last_us and not plan.upcoming:
            parts.append(self.releases.waiting(now_us))
        return parts[0] if len(parts) == 1 else np.concatenate([NOTHING, *parts])

    def bonus(self, plan: Plan) -> Bonus:
        """Return what boosts and freshness add to the items at this moment."""
        moment = 0.0 if plan.freshness is None else moment_of(plan.freshness, _now_us())
        return self._bonus(plan.boosts, plan.freshness, moment)

    def parts_of(
        self, bonus: Bonus, plan: Plan, items: NDArray[np.int32]
    ) -> dict[TermName, NDArray[np.float32]]:
        """Return (items,) nats of boosts and of freshness; together they are the bonus."""
        nats = bonus.nats[items]
        boosts = np.zeros(len(items), np.float32)
        for boost in plan.boosts:
            boosts[self._matching(boost.filter)[items]] += boost.weight
        if plan.freshness is None:
            return {"boosts": nats}
        boosts[nats == 0] = 0  # both together are negligible
        return {"boosts": boosts, "freshness": nats - boosts}

    def barred(self, lookup: Lookup) -> NDArray[np.bool_]:
        """Return (items,), true where an item may not come back."""
        eligible = self._eligible(lookup)
        barred = np.zeros(len(self.attributes), bool) if eligible is None else ~eligible
        barred[lookup.excluded] = True
        return barred

    def available(self, found: Candidates) -> Candidates:
        """Leave out what is not available here, though it may have been where it was found."""
        if self._available is None or self._available[found.items[0]].all():
            return found
        return found.take(np.flatnonzero(self._available[found.items[0]]))

    def popular(self, lookup: Lookup, bonus: Bonus | None) -> Candidates:
        """Return popular items, with the bonus, as a one-row batch."""
        order, eligible = self._by_popularity, self._matching_rows(lookup)
        if bonus is not None:
            order, eligible = bonus.order, self._eligible(lookup)
        return popular_candidates(order, lookup.count, lookup.excluded, eligible)

    def arrange(
        self,
        plan: Plan,
        lookup: Lookup,
        bonus: Bonus | None,
        tier: Tier,
        ranked: Candidates,
        n: int,
    ) -> Arranged:
        """Choose n items of a ranking under caps and for diversity.

        Where the ranking does not have enough that keep to the caps, popular items go on behind
        it, down to the last that is eligible.

        Args:
            plan: The rules.
            lookup: What may come back.
            bonus: What the scores have been given.
            tier: What ranked.
            ranked: A one-row batch, best first.
            n: Items wanted.
        """
        caps = [Cap(self._groups(cap.column), cap.limit) for cap in plan.caps]
        diversity = None
        if plan.diversity:
            pool = ranked.items[0, : pool_of(n)]
            relevance = relevance_of(self._nats(tier, ranked, bonus)[: len(pool)])
            diversity = Diversity(plan.diversity, relevance, self.vectors[pool])
        chosen = select(ranked.items[0], n, caps, diversity)
        if chosen.within_caps < n:
            ranked = ranked.followed_by(self._others(lookup, bonus, ranked))
            chosen = select(ranked.items[0], n, caps, diversity)
        return Arranged(ranked.take(chosen.places), chosen.within_caps == len(chosen.places))

    def _eligible(self, lookup: Lookup) -> NDArray[np.bool_] | None:
        eligible = self._matching_rows(lookup)
        if self._available is None or eligible is None:
            return self._available if eligible is None else eligible
        return eligible & self._available

    def _matching_rows(self, lookup: Lookup) -> NDArray[np.bool_] | None:
        return eligible_of(lookup, self._matching, len(self.attributes))

    def _nats(self, tier: Tier, ranked: Candidates, bonus: Bonus | None) -> NDArray[np.float32]:
        """Return the (ranked,) scores of a tier as what boosts are added to.

        Those behind the ranked items of the generative tier have the score of the last of these.
        """
        nats: NDArray[np.float32] = ranked.scores[0]
        if tier == "generative":
            lowest = nats[nats > 0].min(initial=1)  # they are probabilities
            nats = np.log(np.maximum(nats, lowest))
        elif tier == "popular":
            nats = self.popularity.item_scores[ranked.items[0]]
            nats = nats if bonus is None else nats + bonus.nats[ranked.items[0]]
        return nats

    def _others(self, lookup: Lookup, bonus: Bonus | None, ranked: Candidates) -> Candidates:
        """Return what is eligible and not ranked, popular items first, scored below the last."""
        left = ~self.barred(lookup)
        left[ranked.items[0]] = False
        order = self._by_popularity if bonus is None else bonus.order
        others = popular_candidates(order, len(left), NOTHING, left)
        lowest = ranked.scores.min(initial=0)
        return replace(others, scores=np.full_like(others.scores, lowest))

    def _evaluate(self, condition: Filter) -> NDArray[np.bool_]:
        return evaluate(condition, self.attributes)

    def _group(self, column: str) -> Groups:
        stored = self.attributes.kind(column, column) or "text"
        return Groups(self.attributes.read(column, stored), len(self.attributes))

    def _add_up(
        self, boosts: tuple[WeightedFilter, ...], freshness: Freshness | None, moment_us: float
    ) -> Bonus:
        nats = np.zeros(len(self.attributes), np.float32)
        for boost in boosts:
            nats[self._matching(boost.filter)] += boost.weight
        if freshness is not None:
            times = self.attributes.read(freshness.column, "time")
            nats += freshness_nats(times, freshness, len(nats), moment_us)
        return Bonus(nats, self.popularity.item_scores)


def _without(unavailable: NDArray[np.int32], n_items: int) -> NDArray[np.bool_] | None:
    """Return (items,), true where an item is available; None: all are."""
    return ~mask_of(unavailable, n_items) if len(unavailable) else None


def pool_of(n: int) -> int:
    """Return how many items an answer of n is chosen from where rules choose."""
    return min(max(SMALLEST_POOL, POOL_FACTOR * n), LARGEST_POOL)


def ranked_for(plan: Plan, n: int) -> int:
    """Return how many items must be ranked for an answer of n."""
    return max(n, pool_of(n)) if plan.chooses else n


def _now_us() -> float:
    return time.time() * 1e6


def _release_times(attributes: Attributes) -> Attribute | None:
    """Return the times of `available_from`; what cannot be read holds no item back, and is told."""
    if AVAILABLE_FROM not in attributes.table.column_names:
        return None
    stored = attributes.kind(AVAILABLE_FROM, AVAILABLE_FROM)
    if stored is None:
        return None
    came = len(attributes.read(AVAILABLE_FROM, stored).rows)
    times = attributes.read(AVAILABLE_FROM, "time") if stored in ("time", "text") else None
    if unread := came - (0 if times is None else len(times.rows)):
        logger.warning(
            "%d items have an %s that is no time: they are offered", unread, AVAILABLE_FROM
        )
    return times
