"""What the door in front of the routes costs: CPU of a request in process, with and without it.

    python benchmarks/door.py

The handler answers ten items at once, so that what is left is FastAPI, the door, and afterwards,
in a thread, metrics and log. Best of ten rounds of a thousand requests.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message

from heliograph.config import LimitsConfig, ServeConfig
from heliograph.keys import Scope, add_key
from heliograph_serve.api import RecommendationRequest, Recommendations, RecommendedItem
from heliograph_serve.app import behind_door
from heliograph_serve.request_record import RequestRecord, note_answer, note_user
from heliograph_serve.tally import Tally
from heliograph_serve.watch import Watch

REQUESTS = 1000
ROUNDS = 10
PATH = "/v1/recommendations"
BODY = json.dumps({"user_id": "196", "n": 10}).encode()
TIMINGS_MS = {"history": 1.0, "retrieve": 2.0, "rank": 5.0, "answer": 0.3, "total": 8.4}
ITEMS = [
    RecommendedItem(item_id=f"i{k}", title=f"Title {k}", score=0.1, rank=k, sources=("als",))
    for k in range(1, 11)
]


def routes() -> FastAPI:
    """Return an app of one route that answers at once."""
    app = FastAPI()

    @app.post(PATH)
    async def recommend(request: RecommendationRequest) -> Recommendations:
        note_user(request.user_id)
        note_answer("generative", TIMINGS_MS, 0.1)
        return Recommendations(
            items=ITEMS, tier="generative", bundle="shop-0123", timings_ms=TIMINGS_MS
        )

    return app


async def ask(app: ASGIApp, key: str) -> None:
    """Send requests one after the other."""
    headers = {
        "host": "shop",
        "accept": "*/*",
        "user-agent": "benchmark",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "x-request-id": "5f0c1c5e-7a4b-4f0e-9b57-0d5e0e9d0c11",
        "authorization": f"Bearer {key}",
    }
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    statuses: set[int] = set()

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        statuses.add(message.get("status", 200))

    for _ in range(REQUESTS):
        await app(dict(scope), receive, send)
    assert statuses == {200}


def add_up() -> None:
    """Do what the thread does once a second, for as many requests."""
    watch = Watch(log_share=1.0)
    for _ in range(REQUESTS):
        record = RequestRecord(f"POST {PATH}", "5f0c1c5e-7a4b-4f0e-9b57-0d5e0e9d0c11")
        record.status, record.tier, record.user, record.caller = 200, "generative", "196", "shop"
        record.timings_ms, record.first_score = TIMINGS_MS, 0.1
        watch.note(record)
    records = watch.take()
    Tally(records)
    watch.lines(records)


def microseconds(run: Callable[[], object]) -> float:
    """Return the CPU time of one of the requests that a function makes."""
    started = time.process_time()
    run()
    return (time.process_time() - started) * 1e6 / REQUESTS


def main() -> None:
    """Measure, in turns, and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = add_key(folder / "keys.json", "shop", [Scope.READ])
        limits = LimitsConfig(requests_per_s=1e6, burst=1_000_000)
        guarded = ServeConfig(keys=Path("keys.json"), limits=limits)
        runs: dict[str, Callable[[], object]] = {
            label: lambda app=app: asyncio.run(ask(app, key))
            for label, app in {
                "without a door": routes(),
                "door": behind_door(routes(), ServeConfig(), folder),
                "door, keys, rate": behind_door(routes(), guarded, folder),
            }.items()
        } | {"afterwards, in a thread: metrics and log": add_up}
        rounds = [{label: microseconds(run) for label, run in runs.items()} for _ in range(ROUNDS)]
    for label in runs:
        print(f"{label:42} {min(one[label] for one in rounds):6.1f} us")


if __name__ == "__main__":
    main()
