"""The tables of an evaluation, for a shop in which one model is always right."""

from __future__ import annotations

import numpy as np
import pytest

from heliograph.splits import NextItems
from heliograph.verdict import PIPELINE, World, judge

N_ITEMS = 30
USERS = 40
RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, N_ITEMS, USERS).astype(np.int32)
ASKED = NextItems(
    [RNG.integers(0, N_ITEMS, 2 + user % 20).astype(np.int32) for user in range(USERS)], TARGETS
)
WORLD = World(
    interactions=np.arange(N_ITEMS) + 1,
    vectors=RNG.normal(size=(N_ITEMS, 4)).astype(np.float32),
    categories=[["even" if item % 2 == 0 else "odd"] for item in range(N_ITEMS)],
)


def right() -> np.ndarray:
    """Rank the target first."""
    return np.stack([(target + np.arange(10)) % N_ITEMS for target in TARGETS]).astype(np.int32)


def wrong() -> np.ndarray:
    """Leave the target out."""
    return np.stack([(target + 1 + np.arange(10)) % N_ITEMS for target in TARGETS]).astype(np.int32)


def test_the_lead_of_a_model_that_is_always_right_is_no_luck() -> None:
    verdict = judge({PIPELINE: right(), "als": wrong()}, ASKED, WORLD, [5, 10], seed=0)
    assert verdict.models[PIPELINE]["ndcg@10"] == 1.0
    assert verdict.models["als"]["ndcg@10"] == 0.0
    assert set(verdict.lead) == {"als"}
    assert verdict.lead["als"].difference == -1.0
    assert verdict.lead["als"].p_adjusted < 1e-6


def test_every_user_is_in_one_cohort_of_each_kind() -> None:
    verdict = judge({PIPELINE: right()}, ASKED, WORLD, [10], seed=0)
    assert set(verdict.cohorts) == {
        "history",
        "popularity of the target",
        "category of the target",
    }
    for models in verdict.cohorts.values():
        assert sum(row.users for row in models[PIPELINE]) == USERS
        assert all(row.mean == 1.0 for row in models[PIPELINE])


def test_lists_have_properties_beside_being_right() -> None:
    row = judge({PIPELINE: right()}, ASKED, WORLD, [10], seed=0).models[PIPELINE]
    named = {f"{name}@10" for name in ("coverage", "gini", "novelty", "diversity")}
    assert named <= set(row)
    assert all(np.isfinite(value) for value in row.values())


@pytest.mark.parametrize("users", [0, 1])
def test_of_one_user_or_none_nothing_is_concluded(users: int) -> None:
    asked = ASKED.pick(np.arange(users))
    verdict = judge({PIPELINE: right()[:users]}, asked, WORLD, [10], seed=0)
    assert verdict.models[PIPELINE]["ndcg@10"] == float(users)
    assert verdict.lead == {} and verdict.cohorts == {}
