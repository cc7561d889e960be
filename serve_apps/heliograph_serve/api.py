"""The words of the HTTP API: requests, answers and errors, as they stand in `/docs`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from heliograph.config import Proposer
from heliograph.tables import MAX_ID_LENGTH, bad_id

MAX_ITEMS = 10_000
"""Items in one answer, identifiers in one request."""

Tier = Literal["generative", "retrieval", "popular"]


def _identifier(value: str) -> str:
    if problem := bad_id(value):
        raise ValueError(f"the identifier {problem}")
    return value


Identifier = Annotated[str, Field(max_length=MAX_ID_LENGTH), AfterValidator(_identifier)]


class Body(BaseModel):
    """Base of everything that travels: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class RecommendationRequest(Body):
    """Who wants recommendations, and which."""

    user_id: Identifier | None = None
    """A user of the bundle; an unknown one gets popular items."""

    history: list[Identifier] | None = Field(default=None, max_length=MAX_ITEMS)
    """Items consumed, oldest first, instead of a user; unknown items are ignored."""

    n: int = Field(default=10, ge=1, le=MAX_ITEMS)
    """Items wanted; fewer come back only where fewer are eligible."""

    filter: dict[str, str | list[str]] = {}
    """Catalogue column -> value or values, e.g. `{"categories": ["War", "Drama"]}`."""

    exclude: list[Identifier] = Field(default=[], max_length=MAX_ITEMS)
    """Items that must not come back; what the user has consumed never does."""

    deadline_ms: float | None = Field(default=None, gt=0, le=60_000)
    """Time for the answer; a stage that would miss it is left out."""

    @model_validator(mode="after")
    def _one_of_user_and_history(self) -> RecommendationRequest:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give either user_id or history")
        return self


class RecommendedItem(Body):
    """One item of an answer."""

    item_id: str
    title: str
    score: float
    """Larger is better within one answer; of the generative tier, the probability that the item
    comes next."""

    rank: int
    """1 for the first."""

    sources: list[Proposer]
    """Which models proposed the item."""

    propensity: float = 1.0
    """Probability with which this item stands here; 1, since the ranking is deterministic."""


class Recommendations(Body):
    """The answer to a recommendation request."""

    items: list[RecommendedItem]
    tier: Tier
    """What answered: the item LM over retrieval, retrieval alone, or popularity."""

    bundle: str
    timings_ms: dict[str, float]
    """Time of each stage as this request saw it, and `total`; one whose result was remembered is
    not there."""


class SimilarItem(Body):
    """One item that is like another."""

    item_id: str
    title: str
    score: float
    sources: list[Proposer]


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
    """`retrieve` and `rank`; without the first only popular items can be recommended."""


class Status(Body):
    """What one replica of the ingress has to say."""

    bundle: str
    version: str
    users: int
    items: int
    uptime_s: float
    answers: dict[Tier, int]
    """Answers given since the start, by tier."""

    latency_ms: dict[str, float]
    """p50, p95 and p99 of the newest answers; empty before the first."""

    candidate_cache: dict[str, int]
    """`hits` and `misses`: requests whose candidates were remembered, and the others."""

    stages: dict[str, str]
    """`closed` is well; `open` means the stage failed and is tried again after a pause."""


class ErrorDetail(Body):
    """What was wrong with a request."""

    code: str
    message: str
    field: str | None = None


class ErrorBody(Body):
    """Every answer that is not a success."""

    error: ErrorDetail


class ApiError(Exception):
    """A mistake of the caller, answered as `ErrorBody`."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(code=code, message=message, field=field)


def install_error_handlers(http: FastAPI) -> None:
    """Make every error of an app an `ErrorBody`."""

    @http.exception_handler(ApiError)
    def _api_error(request: Request, error: ApiError) -> JSONResponse:
        return _answer(error.status, error.detail)

    @http.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        if problem["type"] == "json_invalid":
            reason = problem.get("ctx", {}).get("error", problem["msg"])
            detail = ErrorDetail(code="malformed_json", message=f"the body is not JSON: {reason}")
            return _answer(400, detail)
        field = ".".join(str(part) for part in problem["loc"][1:]) or None
        message = problem["msg"].removeprefix("Value error, ")
        return _answer(422, ErrorDetail(code="invalid_request", message=message, field=field))

    @http.exception_handler(HTTPException)
    def _http_error(request: Request, error: HTTPException) -> JSONResponse:
        detail = ErrorDetail(code=f"http_{error.status_code}", message=str(error.detail))
        return _answer(error.status_code, detail)


def _answer(status: int, detail: ErrorDetail) -> JSONResponse:
    return JSONResponse(ErrorBody(error=detail).model_dump(), status_code=status)
