"""Filters, rules and reasons over real HTTP, the same in every tier."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from graphs import Answer, SharedGraph, ask, ids, refusal, sums
from heliograph.bundle import Bundle, open_bundle
from heliograph.candidates import Retriever
from heliograph.cli import app as commands
from heliograph.config import Rules
from heliograph.models.item_lm import ItemLM
from heliograph.workspace import InputError
from heliograph_serve.app import GraphArgs, app
from processes import replicas
from rollouts import end_of, post
from ruled_shop import SOON
from small_shop import ITEMS, STEPS, item_id

pytestmark = pytest.mark.cluster

WALKED = {item_id(step) for step in range(STEPS)}
"""What user-0 has consumed."""

LATE = {item_id(position) for position in range(ITEMS // 2, ITEMS)}


@pytest.fixture(scope="module")
def bundle(one_of_each: SharedGraph, ruled: Bundle) -> Bundle:
    beside = one_of_each.bundle.folder.parent / ruled.id
    return open_bundle(Path(shutil.copytree(ruled.folder, beside)))


@pytest.fixture(scope="module")
def url(one_of_each: SharedGraph, bundle: Bundle) -> str:
    url = one_of_each.url
    assert end_of(url, post(url, "deploy", {"bundle": bundle.id}))["error"] is None
    return url


def in_every_tier(url: str, **request: Any) -> dict[str, Answer]:
    """Ask for user-0 with and without the item LM, and for a user of whom nothing is known."""
    generative = ask(url, user_id="user-0", **request)
    # the candidates are remembered now; the item LM is given no time
    retrieval = ask(url, user_id="user-0", deadline_ms=0.001, **request)
    popular = ask(url, user_id="nobody", **request)
    answers = {"generative": generative, "retrieval": retrieval, "popular": popular}
    assert {tier: answer["tier"] for tier, answer in answers.items()} == {
        tier: tier for tier in answers
    }
    return answers


def test_comparisons_decide_what_comes_back(url: str) -> None:
    wanted = {"year": {"gte": 2000, "lt": 2010}, "price": {"not": "12.00"}}
    expected = {item_id(position) for position in range(20, 30)} - {item_id(24)}
    for answer in in_every_tier(url, n=30, filter=wanted).values():
        assert set(ids(answer)) == expected
    either = {"or": [{"year": "unknown"}, {"and": [{"categories": "late"}, {"shelf": 3}]}]}
    popular = ask(url, user_id="nobody", n=30, filter=either)
    assert set(ids(popular)) == {item_id(0), *(item_id(position) for position in range(30, 40))}


def test_only_included_items_come_back(url: str) -> None:
    listed = [item_id(13), item_id(30), item_id(2), "what is this"]
    answers = in_every_tier(url, n=5, include=listed)
    assert set(ids(answers["generative"])) == {item_id(13), item_id(30)}  # item 2 is consumed
    assert set(ids(answers["retrieval"])) == {item_id(13), item_id(30)}
    assert set(ids(answers["popular"])) == {item_id(13), item_id(30), item_id(2)}
    late = ask(url, user_id="user-0", include=listed, filter={"categories": "late"})
    assert ids(late) == [item_id(30)]
    assert ids(ask(url, user_id="user-0", include=[])) == []


def test_the_next_item_of_the_included_comes_first(url: str) -> None:
    listed = [item_id(position) for position in (35, 25, STEPS)]
    assert ids(ask(url, user_id="user-0", include=listed))[0] == item_id(STEPS)


def test_what_is_consumed_comes_back_as_the_policy_says(url: str) -> None:
    allowed = ask(url, user_id="user-0", n=ITEMS, consumed="allow")
    assert len(ids(allowed)) == len(set(ids(allowed))) == ITEMS
    for deadline in (5000, 0.001):
        again = ask(url, user_id="user-0", n=ITEMS, consumed="only", deadline_ms=deadline)
        assert set(ids(again)) == WALKED
    assert ids(ask(url, user_id="nobody", consumed="only")) == []
    some = ask(url, user_id="user-0", consumed="only", include=[item_id(1), item_id(33)])
    assert ids(some) == [item_id(1)]
    but = ask(url, user_id="user-0", n=ITEMS, consumed="only", exclude=[item_id(1)])
    assert set(ids(but)) == WALKED - {item_id(1)}


def test_what_is_not_out_yet_waits(url: str) -> None:
    for answer in in_every_tier(url, n=ITEMS + 1).values():
        assert SOON not in ids(answer)
    for answer in in_every_tier(url, n=ITEMS + 1, upcoming=True).values():
        assert SOON in ids(answer)
    assert ids(ask(url, user_id="nobody", include=[SOON])) == []


def test_no_more_items_of_a_category_come_than_the_cap(url: str) -> None:
    for answer in in_every_tier(url, n=6, caps={"shelf": 2, "categories": 4}).values():
        shelves = Counter(int(name.removeprefix("item-")) // 10 for name in ids(answer))
        assert sum(shelves.values()) == 6
        assert max(shelves.values()) == 2
        assert 2 <= len(LATE & set(ids(answer))) <= 4
        assert answer["relaxed"] == []
        assert "rules" in answer["timings_ms"]


def test_caps_give_way_before_an_answer_is_too_short(url: str) -> None:
    for answer in in_every_tier(url, n=12, caps={"categories": 3}).values():
        names = ids(answer)
        assert len(names) == len(set(names)) == 12
        assert len(LATE & set(names[:6])) == 3
        assert answer["relaxed"] == ["caps"]


def test_a_cap_that_holds_anyway_changes_nothing(url: str) -> None:
    plain = in_every_tier(url, n=6)
    for tier, answer in in_every_tier(url, n=6, caps={"item_id": 1}).items():
        assert ids(answer) == ids(plain[tier])


def test_a_boost_brings_items_to_the_front_and_a_weight_below_zero_to_the_end(url: str) -> None:
    far = [item_id(38), item_id(39)]
    up = [{"filter": {"item_id": far}, "weight": 50}]
    down = [{"filter": {"categories": "late"}, "weight": -50}]
    early = ITEMS // 2 - STEPS
    for answer in in_every_tier(url, n=5, boosts=up).values():
        assert set(ids(answer)[:2]) == set(far)
    for answer in in_every_tier(url, n=early, boosts=down).values():
        assert not LATE & set(ids(answer))
        assert len(set(ids(answer))) == early


def test_a_boost_adds_its_weight_to_the_logarithm_of_the_odds(url: str) -> None:
    plain = {item["item_id"]: item["score"] for item in ask(url, user_id="user-0", n=5)["items"]}
    boosts = [{"filter": {"item_id": item_id(STEPS)}, "weight": -1.5}]
    answer = ask(url, user_id="user-0", n=5, boosts=boosts)
    lowered = {item["item_id"]: item["score"] for item in answer["items"]}
    before, after = plain[item_id(STEPS)], lowered[item_id(STEPS)]
    change = math.log(after / (1 - after)) - math.log(before / (1 - before))
    assert change == pytest.approx(-1.5, abs=0.05)


def test_boosts_respect_what_may_come_back(url: str) -> None:
    boosts = [{"filter": {"item_id": [item_id(1), item_id(39), SOON]}, "weight": 50}]
    for answer in in_every_tier(url, n=4, boosts=boosts, filter={"categories": "early"}).values():
        assert not {item_id(39), SOON} & set(ids(answer))
    assert item_id(1) not in ids(ask(url, user_id="user-0", boosts=boosts))


def test_what_is_new_comes_first_with_enough_freshness(url: str) -> None:
    fresh = {"column": "added", "half_life_days": 20, "weight": 50}
    for answer in in_every_tier(url, n=5, freshness=fresh).values():
        assert ids(answer)[0] == item_id(ITEMS - 1)
        assert len(set(ids(answer))) == 5


def because(item: Answer, source: str) -> list[str]:
    (reason,) = [reason for reason in item["reasons"] if reason["source"] == source]
    return [cause["item_id"] for cause in reason["because"]]


def test_the_reasons_of_the_next_item_on_the_circle_add_up_and_name_the_item_before(
    url: str, bundle: Bundle
) -> None:
    plain, answer = ask(url, user_id="user-5", n=20), ask(url, user_id="user-5", n=20, explain=True)
    assert answer["explained"] and answer["tier"] == "generative"
    for with_reasons, without in zip(answer["items"], plain["items"], strict=True):
        assert with_reasons.keys() - without.keys() == {"reasons", "base"}
        assert without.items() <= with_reasons.items()
    scores = [item["score"] for item in answer["items"]]
    assert sums(answer) == pytest.approx(np.log(scores), abs=1e-4)
    first = answer["items"][0]
    assert because(first, "transitions")[0] == item_id(5 + STEPS - 1)
    assert "item_lm" in {reason["source"] for reason in first["reasons"]}
    retriever = Retriever(bundle.sources(), bundle.config.candidates, bundle.blend())
    history = bundle.histories().find("user-5")
    assert history is not None
    row_of = bundle.catalogue().row_of
    excluded = [np.append(history, np.int32(row_of[SOON]))]
    found = retriever.retrieve([history], bundle.config.candidates.count, excluded)
    evidence = dict(zip(found.items[0].tolist(), found.evidence[0].tolist(), strict=True))
    of_item_lm = ItemLM.load(bundle.item_lm().parent).scores([history])[0]
    rest = []
    for item in answer["items"]:
        nats = {reason["source"]: reason["nats"] for reason in item["reasons"]}
        counted = item["base"] + sum(nats.values()) - nats["item_lm"]
        assert counted == pytest.approx(evidence.get(row_of[item["item_id"]], 0), abs=1e-3)
        rest.append(of_item_lm[row_of[item["item_id"]]] - nats["item_lm"])
    assert rest == pytest.approx([rest[0]] * len(rest), abs=2e-3)  # its own, but for a constant


def test_what_would_be_late_comes_without_reasons_and_says_so(url: str) -> None:
    ask(url, user_id="user-13", n=20)  # whose candidates are remembered now
    (retrieve,) = replicas("Retrieve")
    os.kill(retrieve.pid, signal.SIGSTOP)
    try:
        answer = ask(url, user_id="user-13", n=20, deadline_ms=700, explain=True)
    finally:
        os.kill(retrieve.pid, signal.SIGCONT)
    assert answer["tier"] == "generative" and not answer["explained"]
    assert [item["reasons"] for item in answer["items"]] == [[]] * 20
    assert answer["timings_ms"]["total"] < 1500


def test_what_rules_add_is_a_reason_in_every_tier(url: str) -> None:
    rules: Answer = {
        "freshness": {"column": "added", "half_life_days": 100, "weight": 2},
        "boosts": [{"filter": {"categories": "early"}, "weight": 0.5}],
    }
    users = {"generative": "user-0", "popular": "nobody"}
    for tier, user in users.items():
        answer = ask(url, user_id=user, n=30, explain=True, **rules)
        assert answer["tier"] == tier and answer["explained"]
        for item in answer["items"]:
            nats = {reason["source"]: reason["nats"] for reason in item["reasons"]}
            age = 10 * (ITEMS - int(item["item_id"].removeprefix("item-")))
            assert nats["freshness"] == pytest.approx(2 * 0.5 ** (age / 100), rel=0.02)
            assert nats.get("boosts", 0) == pytest.approx(0 if item["item_id"] in LATE else 0.5)
        if tier == "generative":
            scores = [item["score"] for item in answer["items"]]
            assert sums(answer) == pytest.approx(np.log(scores), abs=1e-4)


def test_what_caps_left_out_and_fills_the_answer_has_no_reasons(url: str) -> None:
    answer = ask(url, user_id="user-0", n=28, caps={"categories": 30}, explain=True)
    assert answer["explained"] and answer["items"][0]["reasons"]
    for item in answer["items"]:
        assert bool(item["reasons"]) == (item["score"] > 0)


def test_diversity_keeps_the_best_item_first(url: str) -> None:
    plain = in_every_tier(url, n=6)
    for tier, answer in in_every_tier(url, n=6, diversity=0.5).items():
        assert ids(answer)[0] == ids(plain[tier])[0]
        assert len(set(ids(answer))) == 6


RULES = st.fixed_dictionaries(
    {},
    optional={
        "filter": st.sampled_from([{"shelf": ["1", "2"]}, {"year": {"gte": 2000}}]),
        "exclude": st.just([item_id(position) for position in range(12, 22)]),
        "consumed": st.sampled_from(["exclude", "allow"]),
        "boosts": st.just([{"filter": {"categories": "late"}, "weight": 1.5}]),
        "caps": st.sampled_from([{"shelf": 1}, {"categories": 2, "shelf": 3}]),
        "diversity": st.sampled_from([0.3, 1.0]),
        "upcoming": st.booleans(),
    },
)


@settings(max_examples=25)
@given(rules=RULES, n=st.integers(1, 45), who=st.sampled_from(["user-0", "user-23", "nobody"]))
def test_n_items_come_whenever_n_are_eligible(url: str, rules: Answer, n: int, who: str) -> None:
    start = int(who.removeprefix("user-")) if who != "nobody" else None
    walked = set() if start is None else {item_id(start + step) for step in range(STEPS)}
    positions = {item_id(position): position for position in range(ITEMS)}
    if rules.get("upcoming"):
        positions[SOON] = 50
    eligible = set(positions) - set(rules.get("exclude", []))
    if rules.get("consumed") != "allow":
        eligible -= walked
    match rules.get("filter"):
        case {"shelf": _}:
            eligible = {name for name in eligible if positions[name] // 10 in (1, 2)}
        case {"year": _}:
            eligible = {name for name in eligible if positions[name] >= 20}
    answer = ask(url, user_id=who, n=n, **rules)
    names = ids(answer)
    assert len(names) == len(set(names)) == min(n, len(eligible))
    assert set(names) <= eligible
    assert [item["rank"] for item in answer["items"]] == list(range(1, len(names) + 1))
    assert ids(ask(url, user_id=who, n=n, **rules)) == names


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"filter": {"and": [{}, {"year": {"gte": 3, "lt": "x"}}]}}, "filter.and.1.year.lt"),
        ({"filter": {"added": {"gte": 3}}}, "filter.added.gte"),
        ({"filter": []}, "filter"),
        ({"filter": {"colour\x00": 1}}, "filter.'colour\\x00'"),
        ({"filter": {"year": {"like": 3}}}, "filter.year"),
        ({"include": ["\n"]}, "include.0"),
        ({"include": "item-001"}, "include"),
        ({"consumed": "sometimes"}, "consumed"),
        ({"upcoming": "perhaps"}, "upcoming"),
        ({"caps": {"colour": 1}}, "caps.colour"),
        ({"caps": {"shelf": 0}}, "caps.shelf"),
        ({"caps": ["shelf"]}, "caps"),
        ({"diversity": -0.1}, "diversity"),
        ({"boosts": [{"filter": {"shelf": "1"}}]}, "boosts.0.weight"),
        ({"boosts": [{"filter": {"shelf": []}, "weight": 99}]}, "boosts.0.weight"),
        ({"boosts": [{"filter": {"hue": 1}, "weight": 1}]}, "boosts.0.filter.hue"),
        ({"freshness": {"half_life_days": -1}}, "freshness.half_life_days"),
        ({"freshness": {"column": "title", "half_life_days": 1}}, "freshness.column"),
        ({"freshness": {"column": "hue", "half_life_days": 1}}, "freshness.column"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(url: str, rules: Answer, field: str) -> None:
    status, error = refusal(url, user_id="user-0", **rules)
    assert (status, error["field"]) == (422, field)
    assert error["message"]


def test_what_json_can_spell_and_nobody_means_is_refused(url: str) -> None:
    half = "\\ud800"  # of a surrogate pair
    for rest in (
        f'"{half}": 1',
        f'"caps": {{"{half}": 1}}',
        f'"filter": {{"{half}": 1}}',
        f'"filter": {{"title": "{half}"}}',
        '"filter": {"year": 1' + "0" * 5000 + "}",
        '"filter": {"year": NaN}',
        '"filter": ' + '{"not": ' * 5000 + "{}" + "}" * 5000,
    ):
        reply = httpx.post(
            f"{url}/v1/recommendations",
            content=f'{{"user_id": "user-0", {rest}}}',
            headers={"content-type": "application/json"},
        )
        assert reply.status_code in (400, 422), reply.text
        assert reply.json()["error"]["message"]


def test_the_documentation_tells_of_the_rules(url: str) -> None:
    schemas = httpx.get(f"{url}/openapi.json").json()["components"]["schemas"]
    request = schemas["RecommendationRequest"]
    assert set(Rules.model_fields) < set(request["properties"])
    assert all("description" in request["properties"][name] for name in ("filter", "caps"))
    for example in request["examples"]:
        assert set(example) <= set(request["properties"])


def test_configured_rules_that_do_not_fit_the_catalogue_are_refused_at_the_door(
    bundle: Bundle,
) -> None:
    rules = Rules.model_validate({"caps": {"colour": 1}})
    serve = bundle.config.serve.model_copy(update={"rules": rules})
    with pytest.raises(InputError, match=r"serve.rules.caps.colour: the catalogue has no 'colour'"):
        app(GraphArgs(bundle=bundle.folder, serve=serve))


def test_the_command_asks_with_rules_and_prints_the_answer_as_it_came(url: str) -> None:
    command = ["recommend", url, "user-1", "-n", "3", "--json"]
    done = CliRunner().invoke(commands, [*command, "--rules", '{"filter": {"categories": "late"}}'])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.output)
    assert ids(answer) == ids(ask(url, user_id="user-1", n=3, filter={"categories": "late"}))


def test_the_command_says_because_of_what(url: str) -> None:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(
        commands, ["recommend", url, "user-1", "-n", "2", "--explain"]
    )
    assert done.exit_code == 0, done.output
    assert "because" in done.output and "transitions +" in done.output
    assert f"The {STEPS}th thing" in done.output  # the last that user-1 had
