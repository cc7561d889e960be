"""What the endpoint says of a body that is not as it should be."""

from __future__ import annotations

import gzip
from typing import Annotated

import httpx
import pytest
from fastapi import Body, FastAPI

from heliograph_serve.api import RecommendationRequest
from heliograph_serve.api_errors import install_error_handlers
from heliograph_serve.feedback_api import Feedback

pytestmark = pytest.mark.anyio
JSON = "application/json"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def refused(path: str, body: bytes, kind: str = JSON) -> tuple[int, str, str, str | None]:
    """Send a body; returns status, code, message and field of the refusal."""
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/recommendations")
    async def recommend(request: RecommendationRequest) -> str:
        return "taken"

    @app.post("/events")
    async def events(feedback: Annotated[Feedback, Body()]) -> str:
        return "taken"

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://shop"
    ) as client:
        reply = await client.post(path, content=body, headers={"content-type": kind})
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["message"], error["field"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            gzip.compress(b'{"user_id": "ann"}', mtime=0),
            "not UTF-8; what is compressed is not unpacked",
        ),
        ('{"user_id": "é"}'.encode("latin-1"), "not UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"n": ' + b"9" * 5000 + b"}", "a number with too many digits"),
        (b'{"user_id": ', "Expecting value"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_with_the_reason(
    body: bytes, words: str
) -> None:
    status, code, message, _ = await refused("/recommendations", body)
    assert (status, code) == (400, "malformed_json")
    assert words in message


@pytest.mark.parametrize(
    ("path", "body", "field", "meant"),
    [
        ("/recommendations", b'{"user_id": "ann", "fliter": {}}', "fliter", "filter"),
        ("/recommendations", b'{"user_id": "ann", "deadline": 5}', "deadline", "deadline_ms"),
        (
            "/recommendations",
            b'{"user_id": "ann", "boosts": [{"filter": {"a": 1}, "weight": 1, "wieght": 1}]}',
            "boosts.0.wieght",
            "weight",
        ),
        (
            "/events",
            b'{"user_id": "ann", "item_id": "saw", "evnet_id": "1"}',
            "evnet_id",
            "event_id",
        ),
        (
            "/events",
            b'{"events": [{"user_id": "ann", "item_id": "saw", "valeu": 1}]}',
            "events.0.valeu",
            "value",
        ),
    ],
)
async def test_a_field_that_does_not_exist_is_refused_with_the_nearest_one_that_does(
    path: str, body: bytes, field: str, meant: str
) -> None:
    status, _, message, named = await refused(path, body)
    assert (status, named) == (422, field)
    assert message == f"there is no such field; did you mean {meant}?"


async def test_where_no_field_is_near_all_are_named() -> None:
    _, _, message, _ = await refused("/events", b'{"user_id": "ann", "item_id": "saw", "zzz": 1}')
    for name in ("user_id", "item_id", "timestamp", "type", "value", "event_id"):
        assert name in message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[]", "the body is an array, but has to be an object"),
        (b'"ann"', "the body is a string, but has to be an object"),
        (b"5", "the body is a number, but has to be an object"),
        (b"null", "the body is missing; it has to be an object"),
    ],
)
async def test_a_body_that_is_no_object_is_called_what_it_is(body: bytes, words: str) -> None:
    assert await refused("/recommendations", body) == (422, "invalid_request", words, None)


@pytest.mark.parametrize("kind", ["text/json", "text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("path", ["/recommendations", "/events"])
async def test_json_by_another_name_is_refused_with_the_right_one(path: str, kind: str) -> None:
    _, _, message, _ = await refused(path, b'{"user_id": "ann"}', kind)
    assert f"Content-Type: application/json, not with {kind}" in message
