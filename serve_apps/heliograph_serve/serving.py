"""One bundle at work in the ingress: from a request and a user's past to ranked items.

Everything that the ingress knows of a bundle stands here, and a request goes all its way with one
such object: item numbers mean something within one bundle only, so the calls to the other
deployments name the bundle too, and each bundle has batches of its own. A stage that fails or is
late is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from heliograph.bundle import Bundle
from heliograph.candidates import Candidates, proposer_names
from heliograph.catalog import Catalogue
from heliograph.config import Rules, ServeConfig
from heliograph.explanation import Traced
from heliograph.history import Past
from heliograph.interactions import History
from heliograph.item_changes import Changes
from heliograph.models.popularity import Popularity
from heliograph.models.text import Text
from heliograph.ranking import behind, sourced
from heliograph.ranking.engine import MAX_K
from heliograph.revision import Revision, encoding, revise, revised_catalogue, unavailable
from heliograph.rules import Bonus, Evidence, Plan, boosted, raised
from heliograph_serve.api import RecommendationRequest, RecommendedItem, SimilarItem, Tier
from heliograph_serve.cache import CandidateCache
from heliograph_serve.clock import Clock
from heliograph_serve.crew import Crew
from heliograph_serve.item_follower import Edition
from heliograph_serve.lanes import Lanes, PromptTokens
from heliograph_serve.rank import Ranked, Scoring
from heliograph_serve.retrieve import Lookup
from heliograph_serve.rulebook import ChangedVectors, RuleBook, Vectors, ranked_for
from heliograph_serve.served import Grounds, Served
from heliograph_serve.stage import Stage, StageUnavailable

CALM = 16
"""Requests in both stages below which more batches leave at once: up to here their way takes longer
than the work. Where there are more, smaller batches would only make the work longer."""


@dataclass(frozen=True)
class Calls:
    """The other deployments; the first argument says what the numbers mean."""

    retrieve: Crew[Lookup, Candidates]
    similar: Callable[[Edition, int, int], Awaitable[Candidates]]
    trace: Callable[[Edition, History, NDArray[np.int32]], Awaitable[Traced]]
    rank: Lanes[Scoring, Ranked]


@dataclass(frozen=True)
class Bundled:
    """What a bundle has before any item was changed."""

    catalogue: Catalogue
    popularity: Popularity
    text: Text
    configured: Rules
    """Of requests that say nothing else."""

    def rules(self, revision: Revision | None, catalogue: Catalogue | None = None) -> RuleBook:
        """Return the rules over a catalogue with its revision; default: as it is here."""
        if revision is None or catalogue is None:
            vectors = self.text.item_vectors
            return RuleBook(self.catalogue, self.popularity, vectors, self.configured)
        changed: Vectors = self.text.item_vectors
        if len(revision.reworded):
            centred = self.text.centred(revision.vectors)
            changed = ChangedVectors(
                self.text.item_vectors, revision.n_items, revision.reworded, centred
            )
        popularity = self.popularity.extended(revision.n_items)
        return RuleBook(catalogue, popularity, changed, self.configured, revision.unavailable)


class Serving:
    """Answers requests from one bundle."""

    def __init__(self, bundle: Bundle, settings: ServeConfig, rules: Rules, calls: Calls) -> None:
        """Read what the ingress needs of a bundle.

        Args:
            bundle: Its files are checked as they are read.
            settings: Of the graph.
            rules: Of requests that say nothing else.
            calls: Lead to replicas that hold the same bundle.

        Raises:
            InputError: The bundle is not whole.
            FieldError: The rules do not fit its catalogue.
        """
        self.id = bundle.id
        self.config = bundle.config
        self.bundled = Bundled(bundle.catalogue(), bundle.popularity(), bundle.text(), rules)
        self.catalogue = self.bundled.catalogue
        self.titles = self.catalogue.titles
        self.histories = bundle.histories()
        self.blend = bundle.blend()
        self.rules = self.bundled.rules(None)
        self.revision: Revision | None = None
        self.remembered = CandidateCache(settings.candidate_cache_mb)
        # batches hold requests of before and after a change of items: numbers are never given anew
        self.newest = [Edition(bundle.id, 0)]
        self.retrieve: Stage[Lookup, Candidates] = Stage(
            "retrieve",
            lambda batch: calls.retrieve.ask(self.newest[0], batch),
            settings.max_batch_size,
            calls.retrieve.size,
            wait_s=settings.batch_wait_ms / 1000,
            is_calm=self._is_calm,
        )
        self.rank: Stage[Scoring, Ranked] = Stage(
            "rank",
            lambda batch: calls.rank.ask(self.newest[0], batch),
            settings.max_batch_size,
            queue_of=calls.rank.queue_of,
            wait_s=settings.batch_wait_ms / 1000,
            is_calm=self._is_calm,
        )
        self.prompts = PromptTokens()
        self._find_similar = calls.similar
        self._trace = calls.trace

    def _is_calm(self) -> bool:
        return self.retrieve.under_way + self.rank.under_way < CALM

    async def amended(self, changes: Changes) -> Serving:
        """Return what answers requests after changes of items, by the same stages."""
        if not changes.change:
            return self
        new = await asyncio.to_thread(self._amended, changes)
        self.newest[0] = Edition(self.id, changes.change)
        return new

    def _amended(self, changes: Changes) -> Serving:
        new = copy(self)
        if self.revision is not None and self.revision.content == changes.content:
            gone = unavailable(changes, self.catalogue.row_of.get)
            new.revision = replace(self.revision, unavailable=gone)
        else:
            bundled = self.bundled.catalogue
            new.revision = revise(bundled, self.config, changes, encoding(self.config.embedding))
            new.catalogue = revised_catalogue(bundled, new.revision)
            new.titles = new.catalogue.titles
        new.rules = self.bundled.rules(new.revision, new.catalogue)
        new.remembered = self.remembered.emptied()
        return new

    async def plan(self, request: RecommendationRequest) -> Plan:
        """Return the rules that hold; the first filter on a column takes its time."""
        if self.rules.are_named(request):
            return await asyncio.to_thread(self.rules.read, request)
        return self.rules.plan

    async def recommend(
        self, request: RecommendationRequest, plan: Plan, past: Past, clock: Clock
    ) -> Served:
        """Answer with the best tier that keeps the deadline."""
        lookup = self.lookup(request, plan, past)
        bonus = await asyncio.to_thread(self.rules.bonus, plan) if plan.raises else None
        tier: Tier = "popular"
        candidates = None
        if len(past.history):
            candidates = await self._candidates(lookup, clock)
        retrieved = candidates
        if candidates is not None:
            tier = "retrieval"
            ranked = await self._ranked(lookup, candidates, bonus, plan, request.n, clock)
            if ranked is not None:
                tier = "generative"
                candidates = ranked
            elif bonus is not None:
                candidates = boosted(candidates, bonus, self.rules.barred(lookup))
        else:
            candidates = self.rules.popular(lookup, bonus)
        listed = candidates
        keeps_caps = True
        if plan.chooses:
            arranged = await asyncio.to_thread(
                self.rules.arrange, plan, lookup, bonus, tier, candidates, request.n
            )
            candidates, keeps_caps = arranged.candidates, arranged.keeps_caps
            clock.lap("rules")
        items = self._items(candidates, request.n)
        clock.lap("answer")
        grounds = None
        if request.explain:
            answered = candidates.items[0, : request.n]
            grounds = Grounds(plan, lookup, bonus, retrieved, listed, answered)
        return Served(items, tier, keeps_caps, grounds)

    async def similar(self, item: int, n: int, timeout_s: float) -> list[SimilarItem]:
        """Return the n items most like an item number.

        Raises:
            Exception: Retrieval does not answer, or fails; whatever it was.
        """
        async with asyncio.timeout(timeout_s):
            found = await self._find_similar(self.newest[0], item, n)
        return [
            SimilarItem(
                item_id=self.catalogue.ids[row],
                title=self.titles[row],
                score=score,
                sources=proposer_names(bits),
            )
            for row, score, bits in _entries(found.among(len(self.catalogue)), n)
        ]

    async def traced(self, history: History, items: NDArray[np.int32], timeout_s: float) -> Traced:
        """Return what the sources say of some items after a history, and where they have it from.

        Raises:
            Exception: Retrieval does not answer, or fails; whatever it was.
        """
        async with asyncio.timeout(timeout_s):
            return await self._trace(self.newest[0], history, items)

    async def answering(self, clock: Clock) -> dict[str, bool]:
        """Try the other deployments with a small request."""
        history = self.rules.popularity.ranking[:1]
        lookup = Lookup(history=history, count=1, excluded=history)
        candidates = await self._retrieved(lookup, clock)
        ranked = None
        if candidates is not None:
            ranked = await self._asked(lookup, candidates, None, 1, clock)
        return {"retrieve": candidates is not None, "rank": ranked is not None}

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int32]:
        """Return the numbers of the items that the catalogue has."""
        known = (self.catalogue.row_of.get(item_id) for item_id in item_ids)
        return np.array([row for row in known if row is not None], np.int32)

    def lookup(self, request: RecommendationRequest, plan: Plan, past: Past) -> Lookup:
        """Return what retrieval is asked for."""
        included = None if request.include is None else self.rows(request.include)
        if plan.consumed == "only":
            included = past.history if included is None else np.intersect1d(included, past.history)
        unwanted = past.disliked
        if request.exclude:
            unwanted = np.concatenate([unwanted, self.rows(request.exclude)])
        return Lookup(
            history=past.history,
            count=max(self.config.candidates.count, ranked_for(plan, request.n)),
            excluded=self.rules.excluded(plan, past.history, unwanted),
            filter=plan.filter,
            included=included,
        )

    async def _candidates(self, lookup: Lookup, clock: Clock) -> Candidates | None:
        """Return the candidates of a look-up, remembered or retrieved."""
        found = self.remembered.get(lookup)
        if found is None:
            found = await self._retrieved(lookup, clock)
            if found is not None:
                self.remembered.put(lookup, found)
        return found

    async def _retrieved(self, lookup: Lookup, clock: Clock) -> Candidates | None:
        try:
            found = await self.retrieve.ask(lookup, clock.left_s())
            return self.rules.available(found.among(len(self.catalogue)))
        except StageUnavailable:
            return None
        finally:
            clock.lap("retrieve")

    async def _ranked(
        self,
        lookup: Lookup,
        candidates: Candidates,
        bonus: Bonus | None,
        plan: Plan,
        n: int,
        clock: Clock,
    ) -> Candidates | None:
        """Return the final order, or None where the item LM does not answer or has no say.

        It has n items at least, and more than it was asked for where rules choose among them.
        """
        if not candidates.items.size or not self.blend.asks_item_lm_about(lookup.history):
            return None
        wanted = ranked_for(plan, n)
        ranked = await self._asked(lookup, candidates, bonus, wanted, clock)
        if ranked is None:
            return None
        probabilities = np.exp(ranked.log_probabilities)
        if len(ranked.items) >= n and not plan.chooses:
            return sourced(ranked.items, probabilities, candidates)
        if bonus is not None and len(ranked.items) < wanted:
            candidates = boosted(candidates, bonus, self.rules.barred(lookup))
        return behind(ranked.items, probabilities, candidates)

    async def _asked(
        self,
        lookup: Lookup,
        candidates: Candidates,
        bonus: Bonus | None,
        n: int,
        clock: Clock,
    ) -> Ranked | None:
        evidence = Evidence(candidates.items[0], candidates.evidence[0])
        if bonus is not None:
            evidence = raised(evidence, bonus, self.rules.barred(lookup))
        scoring = Scoring(
            history=lookup.history,
            items=evidence.items,
            evidence=evidence.nats,
            excluded=lookup.excluded,
            only_candidates=lookup.is_narrowed,
            k=min(n, MAX_K, len(self.catalogue)),
        )
        try:
            ranked = await self.rank.ask(scoring, clock.left_s())
        except StageUnavailable:
            return None
        finally:
            clock.lap("rank")
        self.prompts.add(ranked.prompt_tokens, ranked.cached_tokens)
        return ranked.among(len(self.catalogue))

    def _items(self, candidates: Candidates, n: int) -> list[RecommendedItem]:
        return [
            RecommendedItem(
                item_id=self.catalogue.ids[row],
                title=self.titles[row],
                score=score,
                rank=rank,
                sources=proposer_names(bits),
            )
            for rank, (row, score, bits) in enumerate(_entries(candidates, n), start=1)
        ]


def _entries(candidates: Candidates, n: int) -> Iterator[tuple[int, float, int]]:
    """Yield item number, score and source bits of the first n items of a one-row batch."""
    return zip(
        candidates.items[0, :n].tolist(),
        candidates.scores[0, :n].tolist(),
        candidates.proposers[0, :n].tolist(),
        strict=True,
    )
