"""The ingress: answers a request with the best tier that keeps its deadline.

The file reads in the order a request travels: who asks, what may be recommended, candidates,
scores, answer. A stage that fails or is late is left out and the answer says so; a request
never fails because the ranking model did.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import FastAPI, Response
from fastapi import Path as PathParameter
from numpy.typing import NDArray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from heliograph import __version__
from heliograph.bundle import open_bundle
from heliograph.candidates import Candidates, proposer_names
from heliograph.config import ServeConfig
from heliograph.history import NO_PAST, Past
from heliograph.identifiers import MAX_ID_LENGTH
from heliograph.ranking import behind
from heliograph.ranking.vllm_engine import MAX_K
from heliograph.rules import Bonus, Evidence, Plan, boosted, raised
from heliograph_serve.api import (
    ApiError,
    ErrorBody,
    Health,
    Readiness,
    RecommendationRequest,
    Recommendations,
    RecommendedItem,
    SimilarItem,
    SimilarItems,
    Status,
    Tier,
    install_error_handlers,
)
from heliograph_serve.feedback import SHARE_OF_DEADLINE, FeedbackIngress, Known, router
from heliograph_serve.rank import Ranked, Scoring
from heliograph_serve.retrieve import Lookup
from heliograph_serve.rulebook import RuleBook, ranked_for
from heliograph_serve.stage import Stage, StageUnavailable

LATENCIES_KEPT = 2000
READY_TIMEOUT_S = 2.0
SIMILAR_TIMEOUT_S = 2.0

http = FastAPI(
    title="heliograph",
    version=__version__,
    summary="Recommendations by a generative language model over FAISS retrieval.",
)
install_error_handlers(http)
http.include_router(router)
ERRORS: dict[int | str, dict[str, object]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON."},
    422: {"model": ErrorBody, "description": "The request is not valid; the message says why."},
}


@dataclass
class Clock:
    """The time of one request."""

    deadline_s: float
    started: float = field(default_factory=time.perf_counter)
    timings_ms: dict[str, float] = field(default_factory=dict)

    def left_s(self) -> float:
        """Return the time until the deadline, never negative."""
        return max(0.0, self.deadline_s - (time.perf_counter() - self.started))

    def lap(self, stage: str) -> None:
        """Note the time since the start or the last lap as that of a stage."""
        spent = (time.perf_counter() - self.started) * 1000
        self.timings_ms[stage] = round(spent - sum(self.timings_ms.values()), 3)


class Recommend(FeedbackIngress):
    """Finds the history, asks retrieval, asks the item LM, answers."""

    def __init__(
        self,
        bundle: Path,
        serve: ServeConfig,
        retrieve: DeploymentHandle[object],
        rank: DeploymentHandle[object],
    ) -> None:
        opened = open_bundle(bundle)
        super().__init__(opened, serve)
        self.serve = serve
        self.blend = opened.blend()
        self.titles = self.catalogue.titles
        self.rules = RuleBook(
            self.catalogue, opened.popularity(), opened.text_vectors(), serve.rules
        )
        self.similar_items = retrieve.similar
        # what travels are arrays and small classes of ours: the plain pickle is enough
        propose, order = (
            method.options(request_serialization="pickle", response_serialization="pickle")
            for method in (retrieve.retrieve, rank.rank)
        )
        self.retrieve: Stage[Lookup, Candidates] = Stage(
            "retrieve", propose.remote, serve.max_batch_size
        )
        self.rank: Stage[Scoring, Ranked] = Stage("rank", order.remote, serve.max_batch_size)
        self.started = time.monotonic()
        self.answers: Counter[Tier] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)

    @http.post("/v1/recommendations", responses=ERRORS)
    async def recommend(self, request: RecommendationRequest) -> Recommendations:
        """Recommend items to a user, or to whoever has the given history."""
        clock = Clock((request.deadline_ms or self.serve.deadline_ms) / 1000)
        plan = await self._plan(request)
        known = await self._known(request, clock)
        lookup = self._lookup(request, plan, known.past)
        bonus = await asyncio.to_thread(self.rules.bonus, plan) if plan.raises else None
        tier: Tier = "popular"
        candidates = None
        if len(known.past.history):
            candidates = await self._candidates(lookup, clock)
        if candidates is not None:
            tier = "retrieval"
            wanted = ranked_for(plan, request.n)
            ranked = await self._ranked(lookup, candidates, bonus, wanted, clock)
            if ranked is not None:
                tier = "generative"
                candidates = ranked
            elif bonus is not None:
                candidates = boosted(candidates, bonus, self.rules.barred(lookup))
        else:
            candidates = self.rules.popular(lookup, bonus)
        keeps_caps = True
        if plan.chooses:
            arranged = await asyncio.to_thread(
                self.rules.arrange, plan, lookup, bonus, tier, candidates, request.n
            )
            candidates, keeps_caps = arranged.candidates, arranged.keeps_caps
            clock.lap("rules")
        items = self._items(candidates, request.n)
        clock.lap("answer")
        return self._answer(items, tier, clock, keeps_caps, known.is_fresh)

    @http.get(
        "/v1/items/{item_id}/similar",
        responses=ERRORS | {404: {"model": ErrorBody}, 503: {"model": ErrorBody}},
    )
    async def similar(
        self,
        item_id: Annotated[str, PathParameter(max_length=MAX_ID_LENGTH)],
        n: int = 10,
    ) -> SimilarItems:
        """Return the items most like one item, by text and by who consumed them."""
        if not 1 <= n <= len(self.catalogue):
            raise ApiError(
                422, "invalid_request", f"n must be from 1 to {len(self.catalogue)}, got {n}", "n"
            )
        item = self.catalogue.row_of.get(item_id)
        if item is None:
            raise ApiError(404, "unknown_item", f"no item {item_id!r} in the catalogue", "item_id")
        found = await self._similar(item, n)
        return SimilarItems(
            item_id=item_id,
            title=self.titles[item],
            items=[
                SimilarItem(
                    item_id=self.catalogue.ids[row],
                    title=self.titles[row],
                    score=score,
                    sources=proposer_names(bits),
                )
                for row, score, bits in _entries(found, n)
            ],
            bundle=self.bundle_id,
        )

    @http.get("/healthz")
    async def health(self) -> Health:
        """Tell that the process lives."""
        return Health()

    @http.get("/readyz", responses={503: {"model": Readiness}})
    async def ready(self, response: Response) -> Readiness:
        """Try every stage with a small request."""
        history = self.rules.popularity.ranking[:1]
        clock = Clock(READY_TIMEOUT_S)
        lookup = Lookup(history=history, count=1, excluded=history)
        candidates = await self._retrieved(lookup, clock)
        ranked = None
        if candidates is not None:
            ranked = await self._asked(lookup, candidates, None, 1, clock)
        hears = await self.hears()
        if candidates is None:
            response.status_code = 503
        return Readiness(
            ready=candidates is not None,
            stages={
                "retrieve": candidates is not None,
                "rank": ranked is not None,
                "history": hears,
            },
        )

    @http.get("/v1/status")
    async def status(self) -> Status:
        """Tell what this replica has done since it started."""
        latencies = np.array(self.latencies_ms)
        return Status(
            bundle=self.bundle_id,
            version=__version__,
            users=len(self.histories),
            items=len(self.catalogue),
            uptime_s=round(time.monotonic() - self.started, 1),
            answers={tier: self.answers[tier] for tier in ("generative", "retrieval", "popular")},
            latency_ms={f"p{q}": round(float(np.percentile(latencies, q)), 2) for q in (50, 95, 99)}
            if len(latencies)
            else {},
            candidate_cache={"hits": self.remembered.hits, "misses": self.remembered.misses},
            stages={
                stage.name: "open" if stage.is_open else "closed"
                for stage in (self.retrieve, self.rank, self.history, self.events)
            },
        )

    async def _known(self, request: RecommendationRequest, clock: Clock) -> Known:
        """Return what the request says of its user, or what is known of the one it names."""
        if request.user_id is None:
            history = self._rows(request.history or [])
            return Known(replace(NO_PAST, history=history), is_fresh=True)
        known = await self.known(request.user_id, SHARE_OF_DEADLINE * clock.left_s())
        clock.lap("history")
        return known

    async def _plan(self, request: RecommendationRequest) -> Plan:
        """Return the rules that hold; the first filter on a column takes its time."""
        if self.rules.are_named(request):
            return await asyncio.to_thread(self.rules.read, request)
        return self.rules.plan

    def _lookup(self, request: RecommendationRequest, plan: Plan, past: Past) -> Lookup:
        included = None if request.include is None else self._rows(request.include)
        if plan.consumed == "only":
            included = past.history if included is None else np.intersect1d(included, past.history)
        unwanted = np.concatenate([past.disliked, self._rows(request.exclude)])
        return Lookup(
            history=past.history,
            count=max(self.config.candidates.count, ranked_for(plan, request.n)),
            excluded=self.rules.excluded(plan, past.history, unwanted),
            filter=plan.filter,
            included=included,
        )

    def _rows(self, item_ids: Sequence[str]) -> NDArray[np.int32]:
        known = (self.catalogue.row_of.get(item_id) for item_id in item_ids)
        return np.array([row for row in known if row is not None], np.int32)

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
            return await self.retrieve.ask(lookup, clock.left_s())
        except StageUnavailable:
            return None
        finally:
            clock.lap("retrieve")

    async def _similar(self, item: int, n: int) -> Candidates:
        try:
            async with asyncio.timeout(SIMILAR_TIMEOUT_S):
                found: Candidates = await self.similar_items.remote(item, n)
        except (TimeoutError, RayError, RayServeException) as error:
            raise ApiError(
                503, "retrieval_unavailable", "retrieval does not answer; try again in a moment"
            ) from error
        return found

    async def _ranked(
        self,
        lookup: Lookup,
        candidates: Candidates,
        bonus: Bonus | None,
        n: int,
        clock: Clock,
    ) -> Candidates | None:
        """Return the final order, or None where the item LM does not answer or has no say."""
        if not candidates.items.size or not self.blend.asks_item_lm([lookup.history])[0]:
            return None
        ranked = await self._asked(lookup, candidates, bonus, n, clock)
        if ranked is None:
            return None
        if bonus is not None and len(ranked.items) < n:
            candidates = boosted(candidates, bonus, self.rules.barred(lookup))
        return behind(ranked.items, np.exp(ranked.log_probabilities), candidates)

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
            return await self.rank.ask(scoring, clock.left_s())
        except StageUnavailable:
            return None
        finally:
            clock.lap("rank")

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

    def _answer(
        self,
        items: list[RecommendedItem],
        tier: Tier,
        clock: Clock,
        keeps_caps: bool,
        is_fresh: bool,
    ) -> Recommendations:
        total = (time.perf_counter() - clock.started) * 1000
        self.answers[tier] += 1
        self.latencies_ms.append(total)
        return Recommendations(
            items=items,
            tier=tier,
            relaxed=[] if keeps_caps else ["caps"],
            bundle=self.bundle_id,
            fresh=is_fresh,
            timings_ms=clock.timings_ms | {"total": round(total, 3)},
        )


def _entries(candidates: Candidates, n: int) -> Iterator[tuple[int, float, int]]:
    """Yield item number, score and source bits of the first n items of a one-row batch."""
    return zip(
        candidates.items[0, :n].tolist(),
        candidates.scores[0, :n].tolist(),
        candidates.proposers[0, :n].tolist(),
        strict=True,
    )
