"""Rules read against a catalogue, and what they add to scores."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from heliograph.attributes import Attributes, FieldError
from heliograph.candidates import Candidates
from heliograph.config import Freshness, Rules
from heliograph.filter_parser import parse_filter
from heliograph.ranking import rank
from heliograph.rules import (
    DAY_US,
    Bonus,
    CapOn,
    Evidence,
    Plan,
    Releases,
    WeightedFilter,
    boosted,
    freshness_nats,
    moment_of,
    raised,
    read_rules,
)

SHELF = Attributes(
    pa.table(
        {
            "genre": [["war"], ["love"], ["war", "love"], []],
            "out": ["2024-01-01", "2024-01-11T00:00:00Z", "soon", None],
            "price": [1.0, 2.0, 3.0, 4.0],
        }
    )
)
NEW_YEAR_US = datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1e6
NO_ONE = np.zeros(0, np.int32)


def candidates(items: list[int], scores: list[float]) -> Candidates:
    one = np.array([scores], np.float32)
    return Candidates(
        np.array([items], np.int32), one, one.copy(), np.ones((1, len(items)), np.uint8)
    )


def barred(n_items: int, *items: int) -> Any:
    mask = np.zeros(n_items, bool)
    mask[list(items)] = True
    return mask


def test_rules_that_fit_are_read() -> None:
    rules = Rules.model_validate(
        {
            "filter": {"price": {"lt": 4}},
            "consumed": "allow",
            "boosts": [{"filter": {"genre": "war"}, "weight": -0.5}],
            "freshness": {"column": "out", "half_life_days": 10},
            "caps": {"genre": 2},
            "diversity": 0.25,
        }
    )
    plan = read_rules(rules, SHELF)
    assert plan == Plan(
        parse_filter({"price": {"lt": 4}}, SHELF),
        "allow",
        False,
        (WeightedFilter(parse_filter({"genre": "war"}, SHELF), -0.5),),
        rules.freshness,
        (CapOn("genre", 2),),
        0.25,
    )
    assert plan.chooses
    assert read_rules(Rules(), SHELF) == Plan()
    assert not Plan().chooses


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ({"filter": {"colour": 1}}, "filter.colour"),
        ({"boosts": [{"filter": {"price": "x"}, "weight": 1}]}, "boosts.0.filter.price"),
        ({"caps": {"colour": 1}}, "caps.colour"),
        ({"freshness": {"column": "colour", "half_life_days": 1}}, "freshness.column"),
        ({"freshness": {"column": "price", "half_life_days": 1}}, "freshness.column"),
        ({"freshness": {"column": "genre", "half_life_days": 1}}, "freshness.column"),
        ({"freshness": {"half_life_days": 1}}, "freshness.column"),
    ],
)
def test_a_rule_that_does_not_fit_the_catalogue_is_named(rules: Any, place: str) -> None:
    for before in ("", "serve.rules."):
        with pytest.raises(FieldError) as error:
            read_rules(Rules.model_validate(rules), SHELF, before)
        assert error.value.place == before + place


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"consumed": "maybe"}, "consumed"),
        ({"caps": {"genre": 0}}, "caps.genre"),
        ({"caps": {"genre": 10**30}}, "caps.genre"),
        ({"diversity": 1.5}, "diversity"),
        ({"diversity": float("nan")}, "diversity"),
        ({"boosts": [{"filter": {}, "weight": 1}]}, "boosts.0.filter"),
        ({"boosts": [{"filter": {"genre": "war"}, "weight": 51}]}, "boosts.0.weight"),
        ({"boosts": [{"filter": {"genre": "war"}, "weight": 1}] * 17}, "boosts"),
        ({"freshness": {"half_life_days": 1e-300}}, "freshness.half_life_days"),
    ],
)
def test_a_rule_out_of_bounds_is_named(rules: Any, field: str) -> None:
    with pytest.raises(ValidationError) as error:
        Rules.model_validate(rules)
    assert ".".join(map(str, error.value.errors()[0]["loc"])) == field


def test_items_wait_until_they_are_out() -> None:
    releases = Releases(SHELF.read("out", "time"), 4, NEW_YEAR_US - 1)
    assert releases.waiting(NEW_YEAR_US - 1).tolist() == [0, 1]
    assert releases.waiting(NEW_YEAR_US).tolist() == [1]
    assert releases.waiting(NEW_YEAR_US + 10 * DAY_US).tolist() == []
    assert releases.last_us == NEW_YEAR_US + 10 * DAY_US
    assert Releases(None, 4, 0.0).last_us == -np.inf


def test_freshness_halves_with_every_half_life() -> None:
    freshness = Freshness(column="out", half_life_days=10, weight=2)
    now_us = NEW_YEAR_US + 20 * DAY_US
    nats = freshness_nats(SHELF.read("out", "time"), freshness, 4, now_us)
    assert nats.tolist() == [0.5, 1.0, 0, 0]
    early = freshness_nats(SHELF.read("out", "time"), freshness, 4, NEW_YEAR_US)
    assert early.tolist() == [2, 2, 0, 0]  # what is not out yet is as new as can be


@given(st.floats(0.01, 1000), st.floats(1.5e15, 2e15))
def test_ages_are_taken_at_moments_a_step_apart(half_life: float, now_us: float) -> None:
    freshness = Freshness(half_life_days=half_life)
    moment = moment_of(freshness, now_us)
    assert 0 <= now_us - moment <= half_life * DAY_US / 256 * 1.01
    assert moment_of(freshness, moment + 1) == pytest.approx(
        moment, abs=2 * half_life * DAY_US / 256
    )


def test_a_bonus_keeps_what_is_worth_adding_and_orders_by_popularity_with_it() -> None:
    bonus = Bonus(np.array([0, 1, 0.001, -5], np.float32), np.array([2, 1.5, 1, 4], np.float32))
    assert bonus.items.tolist() == [1, 3]
    assert bonus.nats.tolist() == [0, 1, 0, -5]
    assert bonus.order.tolist() == [1, 0, 2, 3]


def test_a_bonus_is_added_to_evidence_and_lets_others_in() -> None:
    bonus = Bonus(np.array([1, 0, 2, 3], np.float32), np.zeros(4, np.float32))
    evidence = Evidence(np.array([0, 1], np.int32), np.array([0.5, 0.25], np.float32))
    found = raised(evidence, bonus, barred(4, 3))
    assert found.items.tolist() == [0, 1, 2]
    assert found.nats.tolist() == [1.5, 0.25, 2]


@given(st.integers(0, 2**32 - 1))
def test_a_boost_multiplies_the_odds_and_changes_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_items, listed = 12, rng.permutation(12)[:5].astype(np.int32)
    log_probabilities = np.log(rng.dirichlet(np.ones(n_items))).astype(np.float32)[None]
    found = candidates(listed.tolist(), sorted(rng.normal(size=5).tolist(), reverse=True))
    nats = np.where(rng.random(n_items) < 0.5, rng.normal(scale=3, size=n_items), 0)
    bonus = Bonus(nats.astype(np.float32), np.zeros(n_items, np.float32))

    plain = rank(log_probabilities, found, [NO_ONE], n_items)
    evidence = raised(Evidence(listed, found.evidence[0]), bonus, barred(n_items))
    lifted = log_probabilities[0].copy()
    lifted[evidence.items] += evidence.nats
    order = np.argsort(plain.items[0])
    expected = plain.scores[0][order] + bonus.nats
    assert lifted - np.logaddexp.reduce(lifted) == pytest.approx(
        expected - np.logaddexp.reduce(expected), abs=1e-4
    )


def test_without_the_item_lm_others_start_from_the_last_candidate() -> None:
    found = candidates([4, 2, 0], [3.0, 2.0, 1.0])
    nats, popularity = np.zeros(6, np.float32), np.arange(6, dtype=np.float32)
    nats[[1, 2, 3]] = [1.5, -4.0, 0.5]
    bonus = Bonus(nats, popularity)
    answer = boosted(found, bonus, barred(6, 5))
    assert answer.items[0].tolist() == [4, 1, 3, 0, 2]
    assert answer.scores[0].tolist() == [3.0, 2.5, 1.5, 1.0, -2.0]


def test_a_bonus_of_nothing_leaves_candidates_where_they_are() -> None:
    found = candidates([4, 2], [3.0, 2.0])
    bonus = Bonus(np.zeros(6, np.float32), np.arange(6, dtype=np.float32))
    assert boosted(found, bonus, barred(6)).items[0, :2].tolist() == [4, 2]
    assert boosted(candidates([], []), bonus, barred(6)).items.shape == (1, 0)
