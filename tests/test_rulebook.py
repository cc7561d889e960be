"""The ingress's book of rules: configuration, requests, and what it keeps of the catalogue."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from heliograph.attributes import FieldError
from heliograph.candidates import Candidates, popular_candidates
from heliograph.catalog import Catalogue
from heliograph.config import Rules
from heliograph.models.popularity import Popularity
from heliograph_serve.api import RecommendationRequest
from heliograph_serve.retrieve import Lookup
from heliograph_serve.rulebook import RuleBook, pool_of, ranked_for

N_ITEMS = 8
NOTHING = np.zeros(0, np.int32)
HISTORY = np.array([6, 7], np.int32)
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()

CATALOGUE = Catalogue(
    pa.table(
        {
            "item_id": [f"i{item}" for item in range(N_ITEMS)],
            "title": [f"Item {item}" for item in range(N_ITEMS)],
            "genre": ["war", "war", "war", "war", "love", "love", None, "war"],
            "year": [str(1990 + item) for item in range(N_ITEMS)],
            "available_from": ["2020-01-01", None, TOMORROW, "soon", *[None] * 4],
        }
    )
)


def book(**rules: Any) -> RuleBook:
    popularity = Popularity(np.arange(N_ITEMS, 0, -1, dtype=np.float32))
    vectors = np.eye(N_ITEMS, 3, dtype=np.float32)
    return RuleBook(CATALOGUE, popularity, vectors, Rules.model_validate(rules))


def request(**fields: Any) -> RecommendationRequest:
    return RecommendationRequest.model_validate({"user_id": "someone"} | fields)


def lookup(**fields: Any) -> Lookup:
    return replace(Lookup(HISTORY, 4, HISTORY), **fields)


def matched(rules: RuleBook, asked: RecommendationRequest) -> list[int]:
    found = rules.popular(lookup(excluded=NOTHING, count=9, filter=rules.read(asked).filter), None)
    return sorted(found.items[0].tolist())


def test_what_is_not_available_here_is_left_out_wherever_it_was_found() -> None:
    popularity = Popularity(np.arange(N_ITEMS, 0, -1, dtype=np.float32))
    vectors = np.eye(N_ITEMS, 3, dtype=np.float32)
    gone = np.array([3, 5], np.int32)
    found = popular_candidates(np.array([5, 1, 3, 2], np.int32), 4, NOTHING, None)
    rules = RuleBook(CATALOGUE, popularity, vectors, Rules(), gone)
    assert rules.available(found).items.tolist() == [[1, 2]]
    assert book().available(found) is found


def test_a_request_without_rules_has_the_plan_of_the_configuration() -> None:
    rules = book(consumed="allow")
    assert not rules.are_named(request(n=3, exclude=["i1"], include=[]))
    assert rules.are_named(request(caps={}))
    assert rules.read(request()) == rules.plan
    assert rules.plan.consumed == "allow"


def test_a_rule_of_a_request_replaces_the_configured_one() -> None:
    rules = book(diversity=0.5, caps={"genre": 2}, consumed="only")
    plan = rules.read(request(diversity=0, caps={}))
    assert (plan.diversity, plan.caps, plan.consumed) == (0, (), "only")
    assert not plan.chooses


def test_a_filter_of_a_request_holds_beside_the_configured_one() -> None:
    rules = book(filter={"genre": {"not": "love"}})
    assert matched(rules, request()) == [0, 1, 2, 3, 6, 7]
    assert matched(rules, request(filter={"year": {"gte": 1995}})) == [6, 7]
    assert matched(rules, request(filter={})) == [0, 1, 2, 3, 6, 7]
    assert matched(book(), request(filter={"year": {"gte": 1995}})) == [5, 6, 7]


def test_a_mistake_in_the_configuration_is_named_as_such() -> None:
    with pytest.raises(FieldError, match=r"^serve\.rules\.filter\.colour: "):
        book(filter={"colour": "red"})


def test_what_was_consumed_and_what_is_not_out_yet_is_excluded() -> None:
    rules, named = book(), np.array([1], np.int32)
    excluded = {
        policy: sorted(rules.excluded(rules.read(request(**policy_of(policy))), HISTORY, named))
        for policy in ("exclude", "allow", "only", "upcoming")
    }
    assert excluded == {
        "exclude": [1, 2, 6, 7],
        "allow": [1, 2],
        "only": [1, 2],
        "upcoming": [1, 6, 7],
    }


def policy_of(name: str) -> dict[str, Any]:
    return {"upcoming": True} if name == "upcoming" else {"consumed": name}


def test_items_come_out_while_the_book_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = book()
    later = time.time() + 2 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    assert rules.excluded(rules.plan, HISTORY, NOTHING).tolist() == [6, 7]


def test_times_that_cannot_be_read_are_told_and_hold_nothing_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book()
    assert "1 items have an available_from that is no time" in caplog.text


def test_barred_is_whatever_may_not_come_back() -> None:
    rules = book()
    filtered = rules.read(request(filter={"genre": "war"})).filter
    included = np.array([0, 1, 4], np.int32)
    barred = rules.barred(lookup(filter=filtered, included=included))
    assert np.flatnonzero(~barred).tolist() == [0, 1]
    assert np.flatnonzero(~rules.barred(lookup())).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_bonus_is_what_boosts_add_and_what_freshness_adds() -> None:
    rules = book()
    boosts = [
        {"filter": {"genre": "war"}, "weight": 0.5},
        {"filter": {"year": {"lt": 1992}}, "weight": 1.5},
    ]
    freshness = {"half_life_days": 1, "weight": 2}
    plan = rules.read(request(boosts=boosts, freshness=freshness))
    parts = rules.parts_of(rules.bonus(plan), plan, np.array([1, 2, 4, 0], np.int32))
    assert parts["boosts"].tolist() == [2, 0.5, 0, 2]
    assert parts["freshness"].tolist() == [0, 2, 0, 0]  # of 2020: as good as none
    alone = rules.read(request(boosts=boosts))
    only = rules.parts_of(rules.bonus(alone), alone, np.array([1, 2], np.int32))
    assert {name: nats.tolist() for name, nats in only.items()} == {"boosts": [2, 0.5]}


def test_a_bonus_is_added_up_once_for_equal_boosts() -> None:
    rules = book()
    boosts = [
        {"filter": {"genre": "war"}, "weight": 2},
        {"filter": {"year": 1990}, "weight": -0.5},
    ]
    bonus = rules.bonus(rules.read(request(boosts=boosts)))
    assert bonus.nats.tolist() == [1.5, 2, 2, 2, 0, 0, 0, 2]
    assert rules.bonus(rules.read(request(boosts=boosts, n=3))) is bonus
    assert not rules.plan.raises
    popular = rules.popular(lookup(count=3), bonus)
    assert popular.items.tolist() == [[0, 1, 2]]


def ranked(*items: int) -> Candidates:
    scores = np.arange(len(items), 0, -1, dtype=np.float32)[None]
    bits = np.ones((1, len(items)), np.uint8)
    return Candidates(np.array([items], np.int32), scores, np.zeros_like(scores), bits)


def test_where_a_ranking_has_too_few_within_the_caps_popular_items_go_on() -> None:
    rules = book()
    plan = rules.read(request(caps={"genre": 1}))
    found = rules.arrange(plan, lookup(), None, "retrieval", ranked(3, 1, 0), 2)
    assert found.candidates.items[0].tolist() == [3, 4]
    assert found.keeps_caps
    more = rules.arrange(plan, lookup(), None, "retrieval", ranked(3, 1, 0), 5)
    assert more.candidates.items[0].tolist() == [3, 4, 1, 0, 2]
    assert not more.keeps_caps


def test_a_list_of_all_there_is_keeps_to_its_caps() -> None:
    rules = book()
    plan = rules.read(request(caps={"genre": 6}))
    found = rules.arrange(plan, lookup(), None, "retrieval", ranked(3, 1, 0), 50)
    assert found.candidates.items[0].tolist() == [3, 1, 0, 2, 4, 5]
    assert found.keeps_caps


@pytest.mark.parametrize("tier", ["generative", "retrieval", "popular"])
def test_diversity_passes_over_likeness_in_every_tier(tier: Any) -> None:
    rules = book()
    rules.vectors = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2, 2, 0, 0]]
    plan = rules.read(request(diversity=0.9))
    found = rules.arrange(plan, lookup(), None, tier, ranked(0, 1, 2, 4), 3)
    assert found.candidates.items[0].tolist() == [0, 2, 4]


def test_the_pool_grows_with_the_answer_and_has_bounds() -> None:
    assert [pool_of(n) for n in (1, 10, 50, 9_000)] == [100, 100, 200, 1000]
    rules = book()
    assert ranked_for(rules.plan, 10) == 10
    assert ranked_for(rules.read(request(diversity=0.1)), 9_000) == 9_000


def test_equal_narrowings_have_equal_keys() -> None:
    rules = book()
    one, other = (
        rules.read(request(filter={"genre": genres})).filter
        for genres in (["war", "love"], ["love", "war"])
    )
    assert lookup(filter=one).key() == lookup(filter=other).key()
    assert lookup(filter=one).key() != lookup().key()
    assert lookup(included=HISTORY).key() != lookup().key()
