"""The ingress: answers a request with the best tier that keeps its deadline.

Who asks is looked up here; the way from there to ranked items is that of one bundle (`serving`).
A request never fails because the ranking model did.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, FastAPI, Response
from fastapi import Path as PathParameter
from ray.serve.handle import DeploymentHandle

from heliograph import __version__
from heliograph.bundle import Bundle
from heliograph.config import ServeConfig
from heliograph.event_store.exposures import keep_exposures
from heliograph.event_store.item_log import ItemLog
from heliograph.history import NO_PAST
from heliograph.identifiers import MAX_ID_LENGTH
from heliograph_serve.api import (
    ExplainedRecommendations,
    Health,
    Readiness,
    RecommendationRequest,
    Recommendations,
    SimilarItems,
    Status,
    Tier,
)
from heliograph_serve.api_errors import REFUSALS, ApiError, ErrorBody, install_error_handlers
from heliograph_serve.autoscaling import Metered, ProcessorMeter
from heliograph_serve.body_route import BodyRoute
from heliograph_serve.clock import Clock
from heliograph_serve.columns import in_columns
from heliograph_serve.crew import Crew
from heliograph_serve.deploy_api import router as deploy_router
from heliograph_serve.experiment_api import ExperimentIngress
from heliograph_serve.experiment_api import router as experiment_router
from heliograph_serve.explaining import reasons_for, with_reasons
from heliograph_serve.exposure_log import ExposureLog
from heliograph_serve.feedback import SHARE_OF_DEADLINE, FeedbackIngress, Known
from heliograph_serve.feedback import router as feedback_router
from heliograph_serve.garbage import collect_seldom
from heliograph_serve.http_protocol import speak_http_by_it
from heliograph_serve.item_follower import ItemFollower
from heliograph_serve.items import ItemsIngress
from heliograph_serve.items import router as items_router
from heliograph_serve.lanes import LANES, Lanes
from heliograph_serve.recently import Recently
from heliograph_serve.request_record import note_answer
from heliograph_serve.rollout import Fleet, Rollouts
from heliograph_serve.served import Served
from heliograph_serve.serving import Calls, Serving
from heliograph_serve.shelf import Origin, Shelf
from heliograph_serve.tally import Load
from heliograph_serve.try_it import router as page_router

LATENCIES_KEPT = 2000
READY_TIMEOUT_S = 2.0
READINESS_HOLDS_S = 1.0
SIMILAR_TIMEOUT_S = 2.0

http = FastAPI(
    title="heliograph",
    version=__version__,
    summary="Recommendations by a generative language model over FAISS retrieval.",
    responses=REFUSALS,
    redirect_slashes=False,  # it would lead to http:// also where TLS ends before the endpoint
)
install_error_handlers(http)
router = APIRouter(route_class=BodyRoute)
ERRORS: dict[int | str, dict[str, object]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON."},
    422: {"model": ErrorBody, "description": "The request is not valid; the message says why."},
}


class Recommend(Metered, FeedbackIngress, ExperimentIngress, ItemsIngress):
    """Finds the history, asks retrieval, asks the item LM, answers."""

    def __init__(
        self,
        origin: Origin,
        serve: ServeConfig,
        retrieve: DeploymentHandle[object],
        rank: DeploymentHandle[object],
    ) -> None:
        collect_seldom()
        speak_http_by_it()
        # what travels are arrays and small classes of ours: the plain pickle is enough
        propose, order = (
            method.options(request_serialization="pickle", response_serialization="pickle")
            for method in (retrieve.retrieve, rank.rank)
        )
        lanes = [in_columns(order.options(session_id=str(lane)).remote) for lane in range(LANES)]
        calls = Calls(
            Crew(in_columns(propose.remote)),
            retrieve.similar.remote,
            retrieve.trace.remote,
            Lanes(lanes, lambda one: one.lane),
        )

        def load(bundle: Bundle) -> Serving:
            # whoever started the graph may have changed the rules of the bundle that it began with
            rules = serve.rules if bundle.id == origin.first_id else bundle.config.serve.rules
            return Serving(bundle, serve, rules, calls)

        super().__init__(Shelf(origin, load, amend=Serving.amended), serve)
        self.items = ItemFollower(ItemLog(self.store), self.shelf)
        self.fleet = Fleet(retrieve, rank)
        self.ranker = rank
        self.rollouts = Rollouts(self.fleet, self.shelf)
        self.exposures = ExposureLog(partial(keep_exposures, self.store))
        self.serve = serve
        self.readiness = Recently(self._try_stages, READINESS_HOLDS_S)
        self.meter = ProcessorMeter()
        self.started = time.monotonic()
        self.answers: Counter[Tier] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)

    @router.post("/v1/recommendations", responses=ERRORS)
    async def recommend(
        self, request: RecommendationRequest
    ) -> Recommendations | ExplainedRecommendations:
        """Recommend items to a user, or to whoever has the given history."""
        arms = self.shelf.arms
        if arms is None or request.user_id is None:
            return await self._recommend(self.shelf.current, request)
        participant = self.participant(arms, request.user_id)
        answer = await self._recommend(participant.serving, request)
        self.expose(answer, participant)
        return answer

    async def _recommend(
        self, serving: Serving, request: RecommendationRequest
    ) -> Recommendations | ExplainedRecommendations:
        """Answer from one bundle: a request ends with the one that it began with."""
        clock = Clock((request.deadline_ms or self.serve.deadline_ms) / 1000)
        plan = await serving.plan(request)
        known = await self._known(serving, request, clock)
        served = await serving.recommend(request, plan, known.past, clock)
        if served.grounds is None:
            return self._answer(serving, served, clock, known.is_fresh)
        reasons = await reasons_for(serving, served, served.grounds, clock)
        return with_reasons(self._answer(serving, served, clock, known.is_fresh), reasons)

    @http.get(
        "/v1/items/{item_id:path}/similar",
        responses=ERRORS | {404: {"model": ErrorBody}, 503: {"model": ErrorBody}},
    )
    async def similar(
        self,
        item_id: Annotated[str, PathParameter(max_length=MAX_ID_LENGTH)],
        n: int = 10,
    ) -> SimilarItems:
        """Return the items most like one item, by text and by who consumed them."""
        serving = self.shelf.current
        n_items = len(serving.catalogue)
        if not 1 <= n <= n_items:
            raise ApiError(422, "invalid_request", f"n must be from 1 to {n_items}, got {n}", "n")
        item = serving.catalogue.row_of.get(item_id)
        if item is None:
            raise ApiError(404, "unknown_item", f"no item {item_id!r} in the catalogue", "item_id")
        try:
            items = await serving.similar(item, n, SIMILAR_TIMEOUT_S)
        except Exception as error:  # by gRPC a replica's own error comes as it was raised there
            raise ApiError(
                503, "retrieval_unavailable", "retrieval does not answer; try again in a moment"
            ) from error
        return SimilarItems(
            item_id=item_id, title=serving.titles[item], items=items, bundle=serving.id
        )

    @http.get("/healthz")
    async def health(self) -> Health:
        """Tell that the process lives."""
        return Health()

    @http.get("/readyz", responses={503: {"model": Readiness}})
    async def ready(self, response: Response) -> Readiness:
        """Tell which stages answer a small request.

        Nobody needs a key for this, so the stages are asked once a second at most.
        """
        readiness = await self.readiness.get()
        if not readiness.ready:
            response.status_code = 503
        return readiness

    @http.get("/v1/status")
    async def status(self) -> Status:
        """Tell what this replica has done since it started."""
        serving = self.shelf.current
        latencies = np.array(self.latencies_ms)
        return Status(
            bundle=serving.id,
            version=__version__,
            users=len(serving.histories),
            items=len(serving.catalogue),
            change=self.shelf.changes.change,
            uptime_s=round(time.monotonic() - self.started, 1),
            answers={tier: self.answers[tier] for tier in ("generative", "retrieval", "popular")},
            latency_ms={f"p{q}": round(float(np.percentile(latencies, q)), 2) for q in (50, 95, 99)}
            if len(latencies)
            else {},
            candidate_cache={
                "hits": serving.remembered.hits,
                "misses": serving.remembered.misses,
            },
            prefix_cache={
                "prompt_tokens": serving.prompts.all,
                "cached_tokens": serving.prompts.cached,
            },
            stages={
                stage.name: "open" if stage.is_open else "closed" for stage in self.load().stages
            },
            waiting={stage.name: stage.waiting for stage in self.load().stages},
            experiment=None if self.shelf.arms is None else self.shelf.arms.experiment.name,
            exposures={
                "kept": self.exposures.kept,
                "erased": self.exposures.erased,
                "waiting": self.exposures.waiting,
                "lost": self.exposures.lost,
            },
        )

    async def _try_stages(self) -> Readiness:
        stages = await self.shelf.current.answering(Clock(READY_TIMEOUT_S))
        return Readiness(ready=stages["retrieve"], stages=stages | {"history": await self.hears()})

    def load(self) -> Load:
        """Tell what the metrics watch."""
        serving = self.shelf.current
        stages = (serving.retrieve, serving.rank, self.history, self.events)
        return Load(stages, serving.remembered, serving.prompts, self.exposures, self.items.change)

    async def _known(self, serving: Serving, request: RecommendationRequest, clock: Clock) -> Known:
        """Return what the request says of its user, or what is known of the one it names."""
        if request.user_id is None:
            history = serving.rows(request.history or [])
            return Known(replace(NO_PAST, history=history), is_fresh=True)
        known = await self.known(serving, request.user_id, SHARE_OF_DEADLINE * clock.left_s())
        clock.lap("history")
        return known

    def _answer(
        self, serving: Serving, served: Served, clock: Clock, is_fresh: bool
    ) -> Recommendations:
        total = (time.perf_counter() - clock.started) * 1000
        self.answers[served.tier] += 1
        self.latencies_ms.append(total)
        timings_ms = clock.timings_ms | {"total": round(total, 3)}
        best = served.items[0].score if served.items else None
        note_answer(served.tier, timings_ms, best)
        return Recommendations(
            items=served.items,
            tier=served.tier,
            relaxed=[] if served.keeps_caps else ["caps"],
            bundle=serving.id,
            fresh=is_fresh,
            timings_ms=timings_ms,
        )


for each in (
    page_router,
    router,
    feedback_router,
    items_router,
    deploy_router,
    experiment_router,
):
    http.include_router(each)
# Serve goes through the routes in their order for each request: most are for recommendations
http.router.routes.sort(key=lambda route: not isinstance(route, BodyRoute))
