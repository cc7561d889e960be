"""The served graph over real HTTP, with real Ray Serve, FAISS and vLLM."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ray.serve._private.logging_utils import get_serve_logs_dir

from graphs import Answer, SharedGraph, ask, ids, refusal, sums
from heliograph.against import compare_with_graph
from heliograph.bundle import Bundle
from heliograph.candidates import Retriever
from heliograph.models.item_lm import ItemLM
from heliograph.ranking import rank
from heliograph.splits import NextItems
from heliograph.workspace import InputError
from heliograph_serve.graph import running_graph, wait_until_ready
from processes import free_port, haproxies, has_closed_everything, replicas, wait_until
from small_shop import ITEMS, STEPS, item_id

pytestmark = pytest.mark.cluster


@pytest.fixture
def url(one_of_each: SharedGraph) -> str:
    return one_of_each.url


@pytest.fixture
def bundle(one_of_each: SharedGraph) -> Bundle:
    return one_of_each.bundle


def test_the_next_item_on_the_circle_comes_first(url: str) -> None:
    answer = ask(url, user_id="user-3", n=5)
    assert answer["tier"] == "generative"
    assert ids(answer)[0] == item_id(3 + STEPS)
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5]
    assert answer["items"][0]["title"] == f"The {3 + STEPS}th thing"
    assert answer["items"][0]["sources"]
    assert set(answer["timings_ms"]) == {"history", "retrieve", "rank", "answer", "total"}


def test_popular_items_are_there_for_their_popularity(url: str) -> None:
    answer = ask(url, user_id="nobody", n=5, explain=True)
    assert answer["tier"] == "popular" and answer["explained"]
    for item in answer["items"]:
        (reason,) = item["reasons"]
        assert (reason["source"], reason["share"], reason["because"]) == ("popularity", 1, [])
        assert item["base"] == 0 and reason["nats"] > 0


def test_too_many_items_to_explain_are_refused(url: str) -> None:
    status, error = refusal(url, user_id="user-3", n=101, explain=True)
    assert status == 422 and "at most 100 with explain" in error["message"]


def test_the_served_ranking_is_the_offline_ranking(url: str, bundle: Bundle) -> None:
    retriever = Retriever(bundle.sources(), bundle.config.candidates, bundle.blend())
    item_lm = ItemLM.load(bundle.item_lm().parent)
    for user in ("user-0", "user-17", "user-101"):
        history = bundle.histories().find(user)
        assert history is not None
        candidates = retriever.retrieve([history], bundle.config.candidates.count)
        ranked = rank(item_lm.scores([history]), candidates, [history], 20)
        answer = ask(url, user_id=user, n=20)
        assert ids(answer) == [bundle.catalogue().ids[row] for row in ranked.items[0]]
        assert [item["score"] for item in answer["items"]] == pytest.approx(
            np.exp(ranked.scores[0]), rel=1e-3
        )


def test_a_graph_agrees_with_its_bundle_offline(url: str, bundle: Bundle) -> None:
    histories = bundle.histories().interactions.histories()
    asked = NextItems(
        [history[:-1] for history in histories],
        np.array([history[-1] for history in histories], np.int32),
    ).sample(60, seed=3)
    told: list[int] = []
    found = compare_with_graph(url, bundle, asked, told.append)
    assert found.agrees
    assert found.tiers == {"generative": 60}
    assert not len(found.differing)
    assert found.served["ndcg@10"] == pytest.approx(found.offline["ndcg@10"]) and sum(told) == 120


def test_a_graph_of_another_bundle_is_not_compared(url: str, bundle: Bundle) -> None:
    other = replace(bundle, id="shop-000000000000")
    somebody = NextItems([np.zeros(1, np.int32)], np.ones(1, np.int32))
    with pytest.raises(InputError, match=f"serves the bundle {bundle.id}"):
        compare_with_graph(url, other, somebody, lambda users: None)


def test_a_history_is_answered_like_the_user_who_has_it(url: str) -> None:
    history = [item_id(5 + step) for step in range(STEPS)]
    assert ids(ask(url, history=history)) == ids(ask(url, user_id="user-5"))


def test_consumed_items_are_never_recommended(url: str) -> None:
    answer = ask(url, user_id="user-7", n=ITEMS)
    assert not set(ids(answer)) & {item_id(7 + step) for step in range(STEPS)}


def test_more_items_than_the_catalogue_gives_every_eligible_one_once(url: str) -> None:
    answer = ask(url, user_id="user-7", n=9_999)
    assert answer["tier"] == "generative"
    assert len(ids(answer)) == len(set(ids(answer))) == ITEMS - STEPS


def test_unknown_users_get_popular_items(url: str) -> None:
    answer = ask(url, user_id="nobody", n=7)
    assert answer["tier"] == "popular"
    assert len(ids(answer)) == 7
    assert answer["items"][0]["sources"] == ["popularity"]


def test_an_empty_history_gets_popular_items(url: str) -> None:
    assert ask(url, history=[])["tier"] == "popular"


def test_unknown_items_of_a_history_are_ignored(url: str) -> None:
    assert ids(ask(url, history=["what is this", item_id(4)])) == ids(
        ask(url, history=[item_id(4)])
    )


def test_a_filter_is_applied_inside_the_search(url: str) -> None:
    answer = ask(url, user_id="user-0", n=20, filter={"categories": "late"})
    late = {item_id(position) for position in range(ITEMS // 2, ITEMS)}
    assert set(ids(answer)) == late  # user-0 consumed early items only: all twenty are eligible
    both = ask(url, user_id="user-0", filter={"categories": ["early", "late"], "shelf": "1"})
    assert set(ids(both)) <= {item_id(position) for position in range(10, 20)}
    popular = ask(url, user_id="nobody", n=50, filter={"categories": "late"})
    assert set(ids(popular)) == late


def test_excluded_items_do_not_come_back(url: str) -> None:
    best = ids(ask(url, user_id="user-0"))
    assert not set(best[:3]) & set(ids(ask(url, user_id="user-0", n=ITEMS, exclude=best[:3])))


def test_similar_items_come_with_titles_and_without_the_item(url: str) -> None:
    reply = httpx.get(f"{url}/v1/items/{item_id(4)}/similar", params={"n": 5}).json()
    assert len(reply["items"]) == 5
    assert item_id(4) not in [item["item_id"] for item in reply["items"]]


@pytest.mark.parametrize(
    ("request_body", "field"),
    [
        ({"user_id": "user-0", "n": 0}, "n"),
        ({"user_id": "user-0", "n": -1}, "n"),
        ({"user_id": "user-0", "n": "many"}, "n"),
        ({"user_id": "u" * 10_000}, "user_id"),
        ({"user_id": "a\nb"}, "user_id"),
        ({"user_id": ""}, "user_id"),
        ({"history": [item_id(0), "\x00"]}, "history.1"),
        ({"user_id": "user-0", "history": []}, None),
        ({}, None),
        ({"user_id": "user-0", "colour": "red"}, "colour"),
        ({"user_id": "user-0", "deadline_ms": -5}, "deadline_ms"),
        ({"user_id": "user-0", "filter": {"colour": "red"}}, "filter.colour"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    url: str, request_body: Answer, field: str | None
) -> None:
    status, error = refusal(url, **request_body)
    assert status == 422
    assert error["field"] == field
    assert error["message"]


def test_malformed_json_is_refused(url: str) -> None:
    reply = httpx.post(
        f"{url}/v1/recommendations",
        content=b'{"user_id": ',
        headers={"content-type": "application/json"},
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "malformed_json"


def test_json_that_is_not_called_so_is_refused_with_the_cure(url: str) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = '{"user_id": "user-0"}'
    reply = httpx.post(f"{url}/v1/recommendations", content=body, headers=form)
    assert reply.status_code == 422
    assert "Content-Type: application/json, not with application/x-www" in reply.text


def test_unknown_items_and_paths_are_not_found(url: str) -> None:
    reply = httpx.get(f"{url}/v1/items/none/similar")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_item")
    assert httpx.get(f"{url}/v1/nothing").json()["error"]["code"] == "http_404"


def test_the_documentation_and_the_health_checks_answer(url: str) -> None:
    assert httpx.get(f"{url}/docs").status_code == 200
    assert "/v1/recommendations" in httpx.get(f"{url}/openapi.json").json()["paths"]
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{url}/readyz").json()["stages"] == {
        "retrieve": True,
        "rank": True,
        "history": True,
    }


def test_the_status_counts_tiers(url: str, bundle: Bundle) -> None:
    before = httpx.get(f"{url}/v1/status").json()
    ask(url, user_id="nobody")
    after = httpx.get(f"{url}/v1/status").json()
    assert after["answers"]["popular"] == before["answers"]["popular"] + 1
    assert after["bundle"] == bundle.id


def test_a_deadline_that_nothing_can_keep_still_gets_an_answer(url: str) -> None:
    answer = ask(url, history=[item_id(0), item_id(7), item_id(2)], deadline_ms=0.001)
    assert answer["tier"] == "popular"
    assert len(ids(answer)) == 10


def test_who_comes_back_unchanged_needs_no_retrieval(url: str) -> None:
    request = {"user_id": "user-11", "n": 7}
    first = ask(url, **request)
    before = httpx.get(f"{url}/v1/status").json()["candidate_cache"]
    second = ask(url, **request)
    after = httpx.get(f"{url}/v1/status").json()["candidate_cache"]
    assert after == {"hits": before["hits"] + 1, "misses": before["misses"]}
    assert set(second["timings_ms"]) == {"history", "rank", "answer", "total"}
    assert second["items"] == first["items"]


def test_many_at_once_get_what_one_alone_gets(url: str) -> None:
    users = [f"user-{number % 12}" for number in range(240)]
    alone = {user: ids(ask(url, user_id=user)) for user in set(users)}

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            body = [{"user_id": user, "deadline_ms": 30_000} for user in users]
            address = f"{url}/v1/recommendations"
            return await asyncio.gather(*(client.post(address, json=one) for one in body))

    replies = asyncio.run(all_at_once())
    assert {reply.status_code for reply in replies} == {200}
    for user, reply in zip(users, replies, strict=True):
        assert ids(reply.json()) == alone[user]


def test_a_second_graph_is_refused_with_the_cure(url: str, bundle: Bundle) -> None:
    port = url.rpartition(":")[2]
    settings = bundle.config.serve.model_copy(update={"port": free_port()})
    with (
        pytest.raises(InputError, match=f"already, at port {port} .*heliograph deploy"),
        running_graph(bundle.folder, settings),
    ):
        pass


def test_requests_survive_the_death_of_the_ranking_model(url: str) -> None:
    os.kill(replicas("Rank")[0].pid, signal.SIGKILL)
    tiers: Counter[str] = Counter()
    explained = 0
    give_up = time.monotonic() + 240
    while time.monotonic() < give_up:
        answer = ask(url, user_id="user-3", n=5, deadline_ms=300, explain=True)
        assert len(ids(answer)) == 5
        if answer["explained"] and answer["tier"] == "retrieval":
            explained += 1
            scores = [item["score"] for item in answer["items"]]
            assert sums(answer) == pytest.approx(scores, abs=1e-5)
            assert [item["base"] for item in answer["items"]] == pytest.approx([0] * 5, abs=1e-4)
        assert not set(ids(answer)) & {item_id(3 + step) for step in range(STEPS)}
        tiers[answer["tier"]] += 1
        if tiers["retrieval"] and answer["tier"] == "generative":
            break
    assert tiers["retrieval"] > 0
    assert explained > 0
    assert answer["tier"] == "generative", f"ranking did not come back: {tiers}"
    wait_until_ready(url)


def test_the_death_of_retrieval_is_no_server_error(url: str) -> None:
    ask(url, user_id="user-4", n=5)
    os.kill(replicas("Retrieve")[0].pid, signal.SIGKILL)
    assert ask(url, user_id="user-4", n=5, deadline_ms=2000)["tier"] == "generative"
    assert len(ids(ask(url, user_id="user-5", n=6, deadline_ms=300))) == 6
    statuses = Counter(
        httpx.get(f"{url}/v1/items/{item_id(3)}/similar", timeout=10).status_code for _ in range(5)
    )
    assert set(statuses) <= {200, 503}, statuses
    wait_until_ready(url)
    assert httpx.get(f"{url}/v1/items/{item_id(3)}/similar").status_code == 200


def test_no_client_is_refused_when_a_haproxy_dies(url: str) -> None:
    each_connects = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=url, limits=each_connects) as client:
        for number in (0, 1):
            wait_until(lambda: len(haproxies()) == 2)
            killed = haproxies()[number]
            killed.kill()
            wait_until(partial(has_closed_everything, killed))
            statuses = Counter(client.get("/readyz").status_code for _ in range(100))
            wait_until(lambda: len(haproxies()) == 2)
            statuses += Counter(client.get("/readyz").status_code for _ in range(100))
            assert statuses == {200: 200}


def test_scores_decrease_along_the_answer(url: str) -> None:
    scores = [item["score"] for item in ask(url, user_id="user-9", n=30)["items"]]
    assert np.all(np.diff(scores) <= 0)


def test_a_bundle_that_is_not_whole_is_not_served(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="manifest.json"), running_graph(tmp_path):
        pass


def test_one_trace_spans_the_deployments(url: str) -> None:
    assert ask(url, history=[item_id(1), item_id(2)], n=3)["tier"] == "generative"
    give_up = time.monotonic() + 20
    while not (together := deployments_of_traces()) and time.monotonic() < give_up:
        time.sleep(0.2)
    assert together


def deployments_of_traces() -> bool:
    named: defaultdict[str, set[str]] = defaultdict(set)
    for span in spans():
        text = json.dumps(span["attributes"]) + span["name"]
        named[span["context"]["trace_id"]] |= {
            name for name in ("Recommend", "Retrieve", "Rank") if name in text
        }
    return {"Recommend", "Retrieve", "Rank"} in named.values()


def spans() -> list[dict[str, Any]]:
    found = []
    for file in (Path(get_serve_logs_dir()) / "spans").glob("*"):
        text = file.read_text()
        found += [
            json.loads(one) for one in re.findall(r"^\{.*?^\}", text, re.DOTALL | re.MULTILINE)
        ]
    return found
