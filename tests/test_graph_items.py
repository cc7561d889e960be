"""Items that come, change and go while a graph serves; ingress and retrieval have two replicas."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pyarrow.parquet as pq
import pytest

from graphs import ask, ids, serving, two_replicas
from heliograph.build import Build
from heliograph.bundle import Bundle
from heliograph.config_file import load_config
from processes import replicas
from small_shop import ITEMS, STEPS, Silent, item_id

pytestmark = pytest.mark.cluster

Answer = dict[str, Any]
IN_TIME_S = 10.0
ENOUGH_FOR_ALL = 8
"""Requests after which every replica has answered some."""

ROOM = 4
NEW = "brand new: 100% \N{SNOWMAN}'; DROP TABLE items"
GONE = item_id(20)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/items.sqlite"


@pytest.fixture(scope="module")
def url(bundle: Bundle, store: str) -> Iterator[str]:
    two = two_replicas(bundle)
    with serving(bundle, store=store, recommend=two, retrieve=two, room_for_items=ROOM) as url:
        yield url


def put(url: str, *items: Answer, path: str = "") -> Answer:
    reply = httpx.put(f"{url}/v1/items{path}", json={"items": list(items)}, timeout=60)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def refused(url: str, status: int, *items: object, path: str = "") -> Answer:
    reply = httpx.put(f"{url}/v1/items{path}", json={"items": list(items)}, timeout=60)
    assert reply.status_code == status, reply.text
    return dict(reply.json()["error"])


def say(url: str, item: str, available: bool) -> Answer:
    return put(url, {"item_id": item, "available": available}, path="/availability")


def similar(url: str, item: str, n: int) -> list[str]:
    reply = httpx.get(f"{url}/v1/items/{quote(item, safe='')}/similar", params={"n": n}, timeout=10)
    return [one["item_id"] for one in reply.json()["items"]]


def assert_changed(url: str) -> None:
    """See that the new item is recommended by whoever answers, and the unavailable one is not."""
    for number in range(ENOUGH_FOR_ALL):
        answer = ask(url, user_id=f"user-{number}", include=[NEW, GONE])
        assert (answer["tier"], ids(answer)) == ("generative", [NEW])
        assert GONE not in similar(url, NEW, ITEMS)


@contextmanager
def asked_all_the_time(url: str) -> Iterator[list[str]]:
    """Ask without a pause while the block runs; yields what has gone wrong."""
    wrong: list[str] = []
    over = threading.Event()

    def client() -> None:
        user = 0
        while not over.is_set():
            user += 1
            body = {"user_id": f"user-{user % 100}"}
            try:
                reply = httpx.post(f"{url}/v1/recommendations", json=body, timeout=20)
            except httpx.HTTPError as error:
                wrong.append(str(error))
                continue
            if reply.status_code != 200 or len(reply.json()["items"]) != 10:
                wrong.append(reply.text)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield wrong
    finally:
        over.set()
        thread.join()


def soon(holds: Callable[[], bool], give_up_s: float = 60.0) -> None:
    give_up = time.monotonic() + give_up_s
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_a_new_item_is_recommended_at_once_by_every_replica(url: str) -> None:
    row = {"item_id": NEW, "title": "The 40th thing", "part": "late|new", "shelf": "9"}
    with asked_all_the_time(url) as wrong:
        began = time.monotonic()
        told = put(url, row)
        took_s = time.monotonic() - began
        assert (told["added"], told["updated"], told["change"]) == ([NEW], [], 1)
        for _ in range(ENOUGH_FOR_ALL):
            answer = ask(url, user_id="user-1", include=[NEW, item_id(30)])
            assert answer["tier"] == "generative"
            assert set(ids(answer)) == {NEW, item_id(30)}
            assert ids(ask(url, user_id="user-2", filter={"categories": "new"})) == [NEW]
            assert NEW in similar(url, item_id(39), 5)
            assert len(ids(ask(url, user_id="user-3", n=ITEMS + 1))) == ITEMS + 1 - STEPS
        assert took_s < IN_TIME_S
    assert wrong == []
    again = put(url, row)
    assert (again["added"], again["updated"], again["change"]) == ([], [], 1)
    assert httpx.get(f"{url}/v1/status").json()["items"] == ITEMS + 1


def test_what_is_unavailable_is_gone_from_every_tier(url: str) -> None:
    first = ids(ask(url, user_id="user-5"))[0]
    with asked_all_the_time(url) as wrong:
        assert say(url, first, False)["made_unavailable"] == [first]
        for _ in range(ENOUGH_FOR_ALL):
            assert first not in ids(ask(url, user_id="user-5", n=ITEMS))
            assert first not in ids(ask(url, user_id="nobody", n=ITEMS))
            assert first not in ids(ask(url, user_id="user-5", deadline_ms=0.01, n=ITEMS))
            assert ids(ask(url, user_id="user-5", include=[first])) == []
            assert first not in similar(url, item_id(0), ITEMS)
        assert say(url, first, True)["made_available"] == [first]
        for _ in range(ENOUGH_FOR_ALL):
            assert ids(ask(url, user_id="user-5"))[0] == first
    assert wrong == []


def test_an_item_is_replaced_and_found_by_what_it_is_now(url: str) -> None:
    row = {"item_id": item_id(7), "title": "A kettle", "part": "kitchen"}
    assert put(url, row, row | {"title": "A blue kettle"})["updated"] == [item_id(7)]
    for _ in range(ENOUGH_FOR_ALL):
        (found,) = ask(url, user_id="user-9", filter={"categories": "kitchen"})["items"]
        assert (found["item_id"], found["title"]) == (item_id(7), "A blue kettle")
    assert ids(ask(url, user_id="user-9", include=[item_id(7)], filter={"shelf": "0"})) == []


def test_feedback_on_a_new_item_counts(url: str) -> None:
    event = {"user_id": "user-11", "item_id": NEW, "type": "click"}
    told = httpx.post(f"{url}/v1/events", json=event, timeout=30).json()
    assert (told["new"], told["unknown_items"]) == (1, [])
    for _ in range(ENOUGH_FOR_ALL):
        answer = ask(url, user_id="user-11", n=ITEMS)
        assert answer["tier"] == "generative" and NEW not in ids(answer)


def test_what_does_not_fit_is_refused_as_a_whole(url: str) -> None:
    good = {"item_id": "good", "title": "fine"}
    error = refused(url, 422, good, {"item_id": "bad", "shelff": "1"})
    assert error["field"] == "items.1.shelff" and "did you mean shelf?" in error["message"]
    assert refused(url, 422, good, {"item_id": "bad", "shelf": 1})["field"] == "items.1.shelf"
    assert refused(url, 422, {"item_id": "a\nb"})["field"] == "items.0.item_id"
    assert refused(url, 422)["field"] == "items"
    many = [{"item_id": f"n{number}"} for number in range(ROOM + 1)]
    error = refused(url, 409, *many)
    assert error["code"] == "no_room" and f"{ROOM - 1} are left" in error["message"]
    assert put(url, {"item_id": "good", "available": False}, path="/availability")[
        "unknown_items"
    ] == ["good"]


def test_killed_replicas_come_back_with_the_changes(url: str) -> None:
    say(url, GONE, False)
    for deployment in ("Rank", "Retrieve"):
        with asked_all_the_time(url) as wrong:
            kill_and_wait(url, deployment)
        assert wrong == []
        assert_changed(url)
        assert say(url, GONE, False)["made_unavailable"] == []  # every replica has confirmed it


def kill_and_wait(url: str, deployment: str) -> None:
    """Kill the replicas of a deployment; returns when there are as many others."""
    victims = set(replicas(deployment))
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    soon(lambda: len(set(replicas(deployment)) - victims) == len(victims))
    soon(lambda: ask(url, user_id="user-1")["tier"] == "generative")


def test_the_next_build_knows_what_was_changed(
    url: str, bundle: Bundle, store: str, tmp_path: Path
) -> None:
    shop = bundle.folder.parents[2] / "shop.yaml"
    overrides = [f"workspace={tmp_path}", f"serve.store={store}"]
    with Build(load_config(shop, overrides), Silent()) as build:
        build.ingest()
    rows = {
        row["item_id"]: row for row in pq.read_table(tmp_path / "items/items.parquet").to_pylist()
    }
    assert len(rows) == ITEMS + 1
    assert (rows[NEW]["text"], rows[NEW]["categories"]) == ("The 40th thing", ["late", "new"])
    assert rows[item_id(7)]["title"] == "A blue kettle" and rows[item_id(7)]["shelf"] is None
    lines = (tmp_path / "changed_items.jsonl").read_text().splitlines()
    assert [json.loads(line)["item_id"] for line in lines] == [NEW, item_id(7)]
