"""The words of the HTTP API: requests and answers, as they stand in `/docs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from heliograph.config import Proposer, Rules
from heliograph.experiments import Arm
from heliograph.explanation import TermName
from heliograph.identifiers import Identifier

MAX_ITEMS = 10_000
"""Items in one answer, identifiers in one request."""

MAX_EXPLAINED = 100
"""Items in one answer with reasons."""

Tier = Literal["generative", "retrieval", "popular"]


EVENT_SHAPE, BATCH_SHAPE = "one event", "several events"
"""What the body of a request can be; no part of the name of a field."""


BODY = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Body(BaseModel):
    """Base of everything that travels: unknown keys are errors."""

    model_config = BODY


EXAMPLES: list[JsonValue] = [
    {"user_id": "196", "n": 10},
    {"history": ["50", "181"], "n": 5, "filter": {"release_year": {"gte": 1990}}},
    {
        "user_id": "196",
        "filter": {"not": {"categories": ["Horror", "Documentary"]}},
        "boosts": [{"filter": {"categories": "Comedy"}, "weight": 0.7}],
        "caps": {"categories": 4},
        "diversity": 0.3,
    },
]


class RecommendationRequest(Rules):
    """Who wants recommendations, which, and what holds of them besides relevance.

    A rule that is named here replaces that of the configuration; a filter holds beside it.
    """

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES})

    user_id: Identifier | None = None
    """A user of the bundle or of the event store; an unknown one gets popular items."""

    history: list[Identifier] | None = Field(default=None, max_length=MAX_ITEMS)
    """Items consumed, oldest first, instead of a user; unknown items are ignored."""

    n: int = Field(default=10, ge=1, le=MAX_ITEMS)
    """Items wanted; fewer come back only where fewer are eligible."""

    include: list[Identifier] | None = Field(default=None, max_length=MAX_ITEMS)
    """Items that alone may come back; unknown ones are ignored."""

    exclude: list[Identifier] = Field(default_factory=list, max_length=MAX_ITEMS)
    """Items that must not come back, beside those that `consumed` excludes."""

    explain: bool = False
    """Whether each item comes with the reasons for it; n is at most 100 then."""

    deadline_ms: float | None = Field(default=None, gt=0, le=60_000)
    """Time for the answer; a stage that would miss it is left out, and so are reasons."""

    @model_validator(mode="after")
    def _fits_together(self) -> RecommendationRequest:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give either user_id or history")
        if self.explain and self.n > MAX_EXPLAINED:
            raise ValueError(f"n is at most {MAX_EXPLAINED} with explain, got {self.n}")
        return self


@dataclass(slots=True)
class RecommendedItem:
    """One item of an answer; a dataclass, which is made faster than a model."""

    __pydantic_config__ = BODY

    item_id: str
    title: str
    score: float
    """Larger is better within one answer; of the generative tier, the probability that the item
    comes next."""

    rank: int
    """1 for the first."""

    sources: tuple[Proposer, ...]
    """Which models proposed the item."""

    propensity: float = 1.0
    """Probability with which this item stands here, given the bundle; 1, since the ranking is
    deterministic."""


@dataclass(slots=True)
class Cause:
    """An item of the history that speaks for a recommended one."""

    __pydantic_config__ = BODY

    item_id: str
    title: str
    nats: float
    """What of the reason's nats is its doing."""


@dataclass(slots=True)
class Reason:
    """One term of the sum that an item's score is."""

    __pydantic_config__ = BODY

    source: TermName
    """A model, or the rules `boosts` and `freshness`."""

    nats: float
    """The term. Of the item LM, its log-probability less a number that is the same for all items of
    the answer; of other models, their evidence times the weight that the bundle gives it."""

    share: float | None
    """Of the nats of all models but the item LM that speak for the item; 0 where this one speaks
    against it, null where it is not one of these."""

    because: list[Cause]
    """Items of the history that add most to it, at most three; none where the model does not take
    the history item by item."""


@dataclass(slots=True, kw_only=True)
class ExplainedItem(RecommendedItem):
    """One item of an answer, and why."""

    reasons: list[Reason]
    """Those of the sources, the largest first, then of the item LM and of rules. Empty where the
    item has no score of its own and fills the answer, or nothing was explained."""

    base: float
    """What else the sum has: `base` and the nats of all reasons are the logarithm of the score of
    the generative tier, the score of the retrieval tier, and what popular items are ordered by."""


class ArmShown(Body):
    """In which arm of an experiment a user is."""

    name: str
    arm: Arm
    propensity: float
    """Probability of the arm, over users."""


Item = TypeVar("Item", bound=RecommendedItem)


class Answered(Body, Generic[Item]):
    """What an answer to a recommendation request says, whether it gives reasons or not."""

    items: list[Item]
    tier: Tier
    """What answered: the item LM over retrieval, retrieval alone, or popularity."""

    relaxed: list[Literal["caps"]] = []
    """Rules that gave way so that as many items as were wanted, or as there are, could come."""

    bundle: str
    experiment: ArmShown | None = None
    """The experiment that this answer counts in; null: none."""

    fresh: bool = True
    """Whether the user's latest events count; false: the event store did not answer in time, and
    the history is that of the bundle, or none where the user may have been erased."""

    timings_ms: dict[str, float]
    """Time of each stage as this request saw it, and `total`; one whose result was remembered is
    not there."""


class Recommendations(Answered[RecommendedItem]):
    """The answer to a recommendation request."""


class ExplainedRecommendations(Answered[ExplainedItem]):
    """The answer to a recommendation request with `explain`."""

    explained: bool
    """False: the reasons would have been late, or could not be told, and there are none."""


class SimilarItem(Body):
    """One item that is like another."""

    item_id: str
    title: str
    score: float
    sources: tuple[Proposer, ...]


class SimilarItems(Body):
    """Items like one item, the most alike first."""

    item_id: str
    title: str
    items: list[SimilarItem]
    bundle: str


class Health(Body):
    """Whether the process lives."""

    status: Literal["ok"] = "ok"


class Readiness(Body):
    """Whether requests can be answered, and by which stages."""

    ready: bool
    stages: dict[str, bool]
    """`retrieve`, `rank` and `history`, the event store; without the first only popular items can
    be recommended."""


class Status(Body):
    """What one replica of the ingress has to say."""

    bundle: str
    version: str
    users: int
    items: int
    """Those added since the bundle included."""

    change: int
    """Of items, the newest that is applied here; 0: none since the bundle."""

    uptime_s: float
    answers: dict[Tier, int]
    """Answers given since the start, by tier."""

    latency_ms: dict[str, float]
    """p50, p95 and p99 of the newest answers; empty before the first."""

    candidate_cache: dict[str, int]
    """`hits` and `misses`: requests whose candidates were remembered, and the others."""

    prefix_cache: dict[str, int]
    """`prompt_tokens` of the histories that the item LM was asked about, and how many of them were
    `cached_tokens`, which its replica still knew."""

    stages: dict[str, str]
    """`closed` is well; `open` means the stage failed and is tried again after a pause."""

    waiting: dict[str, int]
    """Requests that wait for their turn at each stage."""

    experiment: str | None
    """Name of the one that this replica takes part in."""

    exposures: dict[str, int]
    """`kept` in the event store, `erased` with their users, `waiting` for it, `lost` because it did
    not answer for too long."""
