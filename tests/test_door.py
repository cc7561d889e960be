"""The door in front of the routes: keys, limits, and what is noted of each request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Body, FastAPI

from heliograph.config import LimitsConfig, ServeConfig
from heliograph.event_store.store import Appended
from heliograph.identifiers import Identifier
from heliograph.keys import Scope, add_key
from heliograph_serve.access import SCOPE_OF, RouteTable
from heliograph_serve.api_errors import install_error_handlers
from heliograph_serve.app import behind_door
from heliograph_serve.door import Door
from heliograph_serve.recommend import http
from heliograph_serve.request_record import note_answer, note_events, note_user
from heliograph_serve.tally import Tally
from stores import event

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Shop:
    """A few routes behind a door, and the door itself."""

    def __init__(self, settings: ServeConfig, folder: Path) -> None:
        self.hold = asyncio.Event()
        self.hold.set()
        self.heard: list[int] = []
        app = FastAPI()
        install_error_handlers(app)
        app.post("/v1/recommendations")(self.recommend)
        app.post("/v1/events")(self.events)
        app.delete("/v1/users/{user_id:path}")(self.erase)
        app.get("/healthz")(self.health)
        app.get("/v1/secret")(self.health)
        app.get("/v1/status")(self.broken)
        self.app = behind_door(app, settings, folder)
        stack = self.app.build_middleware_stack()
        self.app.middleware_stack = stack
        while not isinstance(stack, Door):
            stack = stack.app  # type: ignore[attr-defined]
        self.door = stack
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://shop",
        )

    async def recommend(self, user_id: Annotated[str, Body(embed=True)]) -> dict[str, str]:
        note_user(user_id)
        await self.hold.wait()
        note_answer("generative", {"rank": 3.0, "total": 7.0}, 0.25)
        return {"for": user_id}

    async def events(self, body: Annotated[dict[str, str], Body()]) -> int:
        self.heard.append(len(json.dumps(body)))
        note_events(Appended(new=2, repeated=1, erased=0), [event(1), event(2)])
        return 1

    async def erase(self, user_id: Identifier) -> str:
        """Erase."""
        note_user(user_id)
        return "erased"

    async def health(self) -> str:
        return "ok"

    async def broken(self) -> str:
        raise RuntimeError("a secret of the server")

    async def ask(self, user: str = "ann", **headers: str) -> httpx.Response:
        return await self.client.post(
            "/v1/recommendations", json={"user_id": user}, headers=headers
        )


def shop(folder: Path, keys: str | None = None, **limits: float) -> Shop:
    settings = ServeConfig(
        keys=None if keys is None else Path(keys), limits=LimitsConfig.model_validate(limits)
    )
    return Shop(settings, folder)


def code(reply: httpx.Response) -> str:
    error = reply.json()["error"]
    assert set(error) == {"code", "message", "field"} and error["message"]
    return str(error["code"])


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_every_route_states_its_scope_and_every_scope_has_a_route() -> None:
    labels = RouteTable(http.routes).labels()
    assert {label for label in labels if not label.startswith("HEAD ")} == set(SCOPE_OF)


@pytest.mark.parametrize(
    "path", ["/try", "/v1/recommendations/", "/v1", "/v1/users/x", "//healthz"]
)
def test_what_is_no_route_asks_for_the_highest_scope(path: str) -> None:
    assert RouteTable(http.routes).find("GET", path).scope == "admin"


async def test_a_slash_too_many_is_not_found_and_leads_nowhere() -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(http), base_url="http://shop"
    ) as client:
        reply = await client.post("/v1/recommendations/", json={"user_id": "ann"})
    assert reply.status_code == 404 and "location" not in reply.headers
    assert code(reply) == "http_404"


def test_an_id_with_slashes_does_not_change_the_route() -> None:
    table = RouteTable(http.routes)
    assert table.find("DELETE", "/v1/users/a/healthz").scope == "admin"
    assert table.find("GET", "/v1/users/../healthz/events").scope == "admin"
    assert table.find("GET", "/v1/items/a/similar").scope == "read"
    assert table.find("GET", "/v1/items/a/b/similar").scope == "read"


async def test_a_key_opens_what_its_scopes_say(tmp_path: Path) -> None:
    reads, writes = (add_key(tmp_path / "k", scope, [scope]) for scope in (Scope.READ, Scope.WRITE))
    it = shop(tmp_path, keys="k")
    assert (await it.ask(**bearer(reads))).status_code == 200
    refused = await it.ask(**bearer(writes))
    assert refused.status_code == 403 and code(refused) == "forbidden"
    assert "read" in refused.json()["error"]["message"] and writes not in refused.text
    unknown = await it.client.get("/v1/secret", headers=bearer(reads))
    assert unknown.status_code == 403 and "admin" in unknown.json()["error"]["message"]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer hg_wrong", "hg_wrong", "Bearer \xff"]
)
async def test_without_a_key_nothing_happens(tmp_path: Path, header: str) -> None:
    add_key(tmp_path / "k", "shop", [Scope.READ])
    it = shop(tmp_path, keys="k")
    reply = await it.client.post(
        "/v1/recommendations", json={}, headers=[(b"authorization", header.encode("latin-1"))]
    )
    assert reply.status_code == 401 and code(reply) == "unauthorized"
    assert reply.headers["www-authenticate"] == "Bearer"
    assert (await it.client.get("/healthz")).status_code == 200


async def test_the_word_bearer_may_be_written_anyhow(tmp_path: Path) -> None:
    secret = add_key(tmp_path / "k", "shop", [Scope.READ])
    assert (await shop(tmp_path, keys="k").ask(authorization=f"bearer {secret}")).is_success


async def test_a_key_has_a_burst_and_then_its_rate(tmp_path: Path) -> None:
    secrets = [add_key(tmp_path / "k", name, [Scope.READ]) for name in ("one", "two")]
    it = shop(tmp_path, keys="k", requests_per_s=0.1, burst=2)
    replies = [await it.ask(**bearer(secrets[0])) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert code(replies[2]) == "rate_limited" and 1 <= int(replies[2].headers["retry-after"]) <= 10
    assert (await it.ask(**bearer(secrets[1]))).is_success
    assert (await it.client.get("/healthz")).is_success


async def test_without_keys_all_callers_share_one_limit(tmp_path: Path) -> None:
    it = shop(tmp_path, requests_per_s=0.1, burst=1)
    assert (await it.ask(**{"x-forwarded-for": "10.0.0.1"})).status_code == 200
    assert (await it.ask(**{"x-forwarded-for": "10.0.0.2"})).status_code == 429


async def chunks(sizes: list[int], sent: list[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        sent.append(size)
        yield b"x" * size


async def test_a_body_that_says_it_is_too_large_is_not_read(tmp_path: Path) -> None:
    sent: list[int] = []
    reply = await shop(tmp_path, body_bytes=2000).client.post(
        "/v1/events", content=chunks([1000] * 3, sent), headers={"content-length": "3000"}
    )
    assert reply.status_code == 413 and code(reply) == "body_too_large" and not sent


async def test_a_body_in_chunks_is_read_up_to_the_limit(tmp_path: Path) -> None:
    it = shop(tmp_path, body_bytes=2000)
    sent: list[int] = []
    reply = await it.client.post("/v1/events", content=chunks([1000] * 9, sent))
    assert reply.status_code == 413 and len(sent) == 3
    assert reply.headers["connection"] == "close"
    fits = {"a": "x" * 1900}
    assert (await it.client.post("/v1/events", json=fits)).is_success
    assert it.heard == [len(json.dumps(fits))]


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    it = shop(tmp_path, body_timeout_s=0.01)
    reply = await it.client.post("/v1/events", content=slow())
    assert reply.status_code == 408 and code(reply) == "body_too_slow"
    assert it.door.under_way == 0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)


async def test_beyond_the_bound_the_answer_is_503_at_once_and_recovery_is_too(
    tmp_path: Path,
) -> None:
    it = shop(tmp_path, under_way=2)
    it.hold.clear()
    inside = [asyncio.ensure_future(it.ask()) for _ in range(2)]
    await until(lambda: it.door.under_way == 2)
    refused = await it.ask()
    assert refused.status_code == 503 and code(refused) == "overloaded"
    assert refused.headers["retry-after"] == "1"
    assert (await it.client.get("/healthz")).is_success
    it.hold.set()
    assert [reply.status_code for reply in await asyncio.gather(*inside)] == [200, 200]
    assert (await it.ask()).is_success and it.door.under_way == 0


async def test_a_request_whose_client_leaves_makes_room(tmp_path: Path) -> None:
    it = shop(tmp_path, under_way=1)
    it.hold.clear()
    inside = asyncio.ensure_future(it.ask())
    await until(lambda: it.door.under_way == 1)
    inside.cancel()
    await asyncio.wait([inside])
    assert it.door.under_way == 0
    assert Tally(it.door.watch.take()).requests["POST /v1/recommendations", 499] == 1


async def test_a_mistake_of_the_server_is_the_one_error_body_without_its_words(
    tmp_path: Path,
) -> None:
    it = shop(tmp_path)
    reply = await it.client.get("/v1/status")
    assert reply.status_code == 500 and code(reply) == "internal" and "secret" not in reply.text
    assert Tally(it.door.watch.take()).requests["GET /v1/status", 500] == 1


async def test_what_handlers_note_is_added_up(tmp_path: Path) -> None:
    it = shop(tmp_path)
    for _ in range(3):
        await it.ask()
    await it.client.post("/v1/events", json={})
    await it.client.get("/wp-admin/" + "x" * 50)
    tally = Tally(it.door.watch.take())
    assert tally.requests == {
        ("POST /v1/recommendations", 200): 3,
        ("POST /v1/events", 200): 1,
        ("other", 404): 1,
    }
    assert tally.answers == {"generative": 3}
    assert tally.stage_ms["rank"].sum == 9.0 and sum(tally.stage_ms["total"].counts) == 3
    assert tally.first_log_probabilities == pytest.approx([-1.386] * 3, abs=1e-3)  # log(1/4)
    assert tally.events == {"new": 2, "repeated": 1, "erased": 0}
    assert sum(tally.event_lag_s.counts) == 2
    assert not Tally(it.door.watch.take()).requests


NASTY = ['x"} {"status": 200', "a\nb", "\r\nx-evil: 1", "\x00\x1b[2J", "\u2028\u202e", "'; --"]


@pytest.mark.parametrize("text", NASTY)
async def test_a_line_of_the_log_is_one_line_and_names_no_user(tmp_path: Path, text: str) -> None:
    secret = add_key(tmp_path / "k", "shop", [Scope.READ, Scope.ADMIN])
    it = shop(tmp_path, keys="k")
    header = text.encode("latin-1", "replace").replace(b"\n", b" ").replace(b"\r", b" ")
    await it.client.post(
        "/v1/recommendations",
        json={"user_id": text},
        headers=[
            (b"authorization", f"Bearer {secret}".encode()),
            (b"x-request-id", header.replace(b"\x00", b"")),
        ],
    )
    (line,) = it.door.watch.lines(it.door.watch.take())
    assert line.isascii() and line.isprintable()
    fields = json.loads(line)
    assert text not in [fields[name] for name in set(fields) - {"request_id"}]
    assert {"route", "status", "ms", "request_id", "time", "key", "user", "tier"} == set(fields)
    assert (fields["status"], fields["key"], fields["tier"]) == (200, "shop", "generative")
    assert len(fields["user"]) == 32 and fields["route"] == "POST /v1/recommendations"


async def test_successes_may_be_sampled_but_failures_always_leave_a_line(tmp_path: Path) -> None:
    it = Shop(ServeConfig(log_share=0), tmp_path)
    await it.ask()
    await it.client.get("/nowhere")
    (line,) = it.door.watch.lines(it.door.watch.take())
    assert json.loads(line)["status"] == 404


async def test_the_openapi_document_says_which_scope_a_route_asks_for(tmp_path: Path) -> None:
    document = (await shop(tmp_path).client.get("/openapi.json")).json()
    asks = document["paths"]["/v1/users/{user_id}"]["delete"]
    assert asks["security"] == [{"API key": []}] and "`admin`" in asks["description"]
    assert "security" not in document["paths"]["/healthz"]["get"]
    assert document["components"]["securitySchemes"]["API key"]["scheme"] == "bearer"


async def test_other_origins_are_not_let_in_unless_named(tmp_path: Path) -> None:
    asks = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    closed = await shop(tmp_path).client.options("/v1/recommendations", headers=asks)
    assert closed.status_code == 403 and "access-control-allow-origin" not in closed.headers
    add_key(tmp_path / "k", "shop", [Scope.READ])
    settings = ServeConfig(cors_origins=("https://shop.example",), keys=Path("k"))
    it = Shop(settings, tmp_path)
    allowed = await it.client.options("/v1/recommendations", headers=asks)
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    refused = await it.ask(origin="https://shop.example")  # a page must be able to read why
    assert refused.status_code == 401 and "access-control-allow-origin" in refused.headers
    other = await it.client.options(
        "/v1/recommendations", headers=asks | {"origin": "https://evil.example"}
    )
    assert "access-control-allow-origin" not in other.headers


async def test_what_a_foreign_page_asks_for_is_not_done(tmp_path: Path) -> None:
    it = shop(tmp_path)

    async def ask(**headers: str) -> int:
        return (await it.ask(**headers)).status_code

    evil, own = "https://evil.example", "http://shop"
    assert code(await it.ask(origin=evil)) == "foreign_page"
    assert await ask(**{"origin": evil, "sec-fetch-site": "cross-site"}) == 403
    assert await ask(**{"origin": own + ":81", "sec-fetch-site": "same-site"}) == 403
    assert await ask(origin="null") == 403  # of a page in a frame without an origin
    assert await ask(origin=own) == 200
    # where TLS ends before the endpoint, which has another name then
    assert await ask(**{"origin": "https://shop.example", "sec-fetch-site": "same-origin"}) == 200
    named = Shop(ServeConfig(cors_origins=(evil,)), tmp_path)
    assert (await named.ask(origin=evil)).status_code == 200
