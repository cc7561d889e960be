"""Feedback over HTTP: two replicas of the ingress, one event store."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from graphs import ENOUGH_FOR_BOTH, SharedGraph, ask, ids
from heliograph.event_store.importing import Importer
from heliograph_serve.graph import wait_until_ready
from processes import replicas
from small_shop import STEPS, item_id

pytestmark = pytest.mark.cluster

Answer = dict[str, Any]


@pytest.fixture
def url(two_ingress_replicas: SharedGraph) -> str:
    return two_ingress_replicas.url


def post(url: str, *events: Answer) -> Answer:
    reply = httpx.post(f"{url}/v1/events", json={"events": list(events)}, timeout=30)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def said(user: str, position: int, **more: Any) -> Answer:
    return {"user_id": user, "item_id": item_id(position)} | more


def stored(url: str, user: str) -> list[Answer]:
    events: list[Answer] = []
    after: int | None = 0
    while after is not None:
        page = httpx.get(f"{url}/v1/users/{user}/events", params={"after": after}).json()
        events += page["events"]
        after = page["next"]
    return events


def test_the_next_answer_of_every_replica_reflects_an_event(url: str) -> None:
    walked = 60 + STEPS
    assert ids(ask(url, user_id="user-60"))[0] == item_id(walked)
    post(url, said("user-60", walked))
    for _ in range(ENOUGH_FOR_BOTH):
        answer = ask(url, user_id="user-60", n=40)
        assert answer["fresh"] and answer["tier"] == "generative"
        assert ids(answer)[0] == item_id(walked + 1)
        assert item_id(walked) not in ids(answer)
        assert "history" in answer["timings_ms"]


def test_a_user_whom_the_bundle_does_not_know_gets_a_history(url: str) -> None:
    assert ask(url, user_id="newcomer")["tier"] == "popular"
    # later ones first: what counts is when things happened
    post(url, *(said("newcomer", step, timestamp=1_700_000_000 + step) for step in (7, 5, 6)))
    answer = ask(url, user_id="newcomer")
    assert answer["tier"] == "generative"
    assert ids(answer) == ids(ask(url, history=[item_id(step) for step in (5, 6, 7)]))


def test_the_history_by_now_is_of_the_bundle_and_the_store_newest_first(url: str) -> None:
    post(url, said("user-65", 3))
    answer = httpx.get(f"{url}/v1/users/user-65/events", params={"limit": 4}).json()
    walked = [item_id(65 + step) for step in reversed(range(STEPS))]
    assert [one["item_id"] for one in answer["history"]] == [item_id(3), *walked[:3]]
    assert answer["history"][0]["title"] == "The 3th thing"
    assert answer["history"][0]["timestamp"] == answer["events"][0]["timestamp"]


def test_what_is_turned_down_is_not_offered_and_changes_nothing_else(url: str) -> None:
    before = ids(ask(url, user_id="user-61", n=5))
    post(url, said("user-61", 61 + STEPS, type="dislike"))
    assert ids(ask(url, user_id="user-61", n=4)) == before[1:]


def test_an_impression_says_nothing(url: str) -> None:
    before = ids(ask(url, user_id="user-62"))
    post(url, said("user-62", 62 + STEPS, type="impression"))
    assert ids(ask(url, user_id="user-62")) == before


def test_an_event_counts_once_and_unknown_items_are_named(url: str) -> None:
    event = said("user-63", 4, event_id="once")
    unknown = said("user-63", 4, event_id="new item") | {"item_id": "not yet"}
    first = post(url, event, event, unknown)
    assert first == {
        "new": 2,
        "repeated": 1,
        "erased": 0,
        "event_ids": ["once", "once", "new item"],
        "unknown_items": ["not yet"],
    }
    assert post(url, event)["repeated"] == 1
    single = httpx.post(f"{url}/v1/events", json=said("user-63", 5, timestamp=5)).json()
    assert single["new"] == 1 and len(single["event_ids"][0]) == 24
    kept = stored(url, "user-63")
    assert [one["event_id"] for one in kept[:2]] == ["new item", "once"] or len(kept) == 3
    assert kept[2]["timestamp"] == "1970-01-01T00:00:05+00:00"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user_id": "ann"}, "item_id"),
        (said("ann", 1, timestamp="soon"), "timestamp"),
        ({"events": [said("ann", 1), said("a\nb", 1)]}, "events.1.user_id"),
        ({"events": [said("ann", 1, value="much")]}, "events.0.value"),
        ({"events": []}, "events"),
        ({"events": [said("ann", 1)] * 1001}, "events"),
        ({"events": said("ann", 1)}, "events"),
        ({"events": [7]}, "events.0"),
        ([said("ann", 1)], None),
        ("click", None),
    ],
)
def test_events_that_make_no_sense_are_refused_by_place(
    url: str, body: object, field: str | None
) -> None:
    reply = httpx.post(f"{url}/v1/events", json=body)
    assert (reply.status_code, reply.json()["error"]["field"]) == (422, field)
    assert stored(url, "ann") == []


def test_pages_hold_every_event_once(url: str) -> None:
    post(url, *(said("pages", n, event_id=f"p{n}", timestamp=n) for n in range(7)))
    address = f"{url}/v1/users/pages/events"
    seen, after = [], 0
    for size in (3, 3, 1):
        page = httpx.get(address, params={"limit": 3, "after": after}).json()
        assert len(page["events"]) == size
        seen += [event["event_id"] for event in page["events"]]
        after = page["next"]
    assert after is None and sorted(seen) == [f"p{n}" for n in range(7)]
    assert httpx.get(address, params={"after": -1}).status_code == 422
    odd = "a/b?c'; DROP TABLE events"
    post(url, said(odd, 1))
    assert len(stored(url, "a%2Fb%3Fc'%3B DROP TABLE events")) == 1


def test_an_erased_user_is_unknown_everywhere(url: str) -> None:
    post(url, said("user-64", 3, event_id="before", timestamp=100))
    assert ask(url, user_id="user-64")["tier"] == "generative"
    receipt = httpx.delete(f"{url}/v1/users/user-64", timeout=30).json()
    assert receipt["store_events"] == 1
    assert receipt["bundle_events"] == STEPS
    assert receipt["cached_candidates"] >= 1
    for _ in range(ENOUGH_FOR_BOTH):
        assert ask(url, user_id="user-64")["tier"] == "popular"
    assert stored(url, "user-64") == []
    assert post(url, said("user-64", 3, event_id="before", timestamp=100))["erased"] == 1
    assert httpx.delete(f"{url}/v1/users/user-64", timeout=30).json()["store_events"] == 0
    assert httpx.get(f"{url}/v1/users/user-64/events").json()["history"] == []
    post(url, said("user-64", 8))  # who comes back begins anew
    assert ids(ask(url, user_id="user-64")) == ids(ask(url, history=[item_id(8)]))


def test_without_time_for_the_store_the_answer_says_so(url: str) -> None:
    answer = ask(url, user_id="user-65", deadline_ms=0.001)
    assert not answer["fresh"] and len(ids(answer)) == 10


def test_lines_are_imported_once_and_bad_ones_set_aside(url: str, tmp_path: Path) -> None:
    source, rejected = tmp_path / "clicks.jsonl", tmp_path / "rejected"
    good = [said("importer", n, timestamp=n) for n in range(30)]
    lines = [json.dumps(event) for event in good]
    lines[10:10] = [
        "{",
        json.dumps(said("importer", 1)),
        json.dumps(said("importer", 1, value="x")),
    ]
    source.write_text("\n".join(lines[:20]) + "\n" + lines[20][:9])

    def run() -> Importer:
        importer = Importer(url, tmp_path / "offset", rejected, batch=4, give_up_s=30)
        importer.run(source, follow=False)
        return importer

    first = run()
    assert (first.done.new, first.done.rejected) == (17, 3)  # the last line was not whole yet
    source.write_text("\n".join(lines) + "\n")
    assert run().done.new == 13
    assert run().done.new == 0
    assert len(stored(url, "importer")) == 30
    reasons = [json.loads(line)["reason"] for line in rejected.read_text().splitlines()]
    assert [reason.split()[0] for reason in reasons] == ["not", "neither", "value:"]


def test_a_file_is_followed_as_it_grows(url: str, tmp_path: Path) -> None:
    source = tmp_path / "clicks.jsonl"
    source.touch()
    importer = Importer(url, tmp_path / "offset", tmp_path / "rejected", batch=5, give_up_s=30)
    following = threading.Thread(target=importer.run, args=(source, True), daemon=True)
    following.start()
    for n in range(12):
        with source.open("a") as file:
            file.write(json.dumps(said("follower", n, timestamp=n)) + "\n")
    give_up = time.monotonic() + 30
    while importer.done.new < 12 and time.monotonic() < give_up:
        time.sleep(0.05)
    assert len(stored(url, "follower")) == 12


def test_no_acknowledged_event_is_lost_to_a_killed_ingress(url: str) -> None:
    acknowledged: list[str] = []
    stop = threading.Event()

    def client(name: int) -> None:
        with httpx.Client(timeout=10) as http:
            number = 0
            while not stop.is_set():
                event_id = f"chaos-{name}-{number}"
                body = said(f"chaos-{name}", number, event_id=event_id, timestamp=number)
                try:
                    reply = http.post(f"{url}/v1/events", json=body)
                except httpx.HTTPError:
                    continue  # sent again with the same identifier
                if reply.status_code == 200:
                    acknowledged.append(event_id)
                    number += 1

    def wait_for_more() -> None:
        enough = len(acknowledged) + 50
        while len(acknowledged) < enough:
            time.sleep(0.01)

    clients = [threading.Thread(target=client, args=(name,)) for name in range(4)]
    for one in clients:
        one.start()
    try:
        for victim in replicas("Recommend"):
            wait_for_more()
            os.kill(victim.pid, signal.SIGKILL)
        wait_until_ready(url)
        wait_for_more()
    finally:
        stop.set()
        for one in clients:
            one.join()
    kept = [event["event_id"] for name in range(4) for event in stored(url, f"chaos-{name}")]
    assert len(kept) == len(set(kept))
    assert set(acknowledged) <= set(kept)
