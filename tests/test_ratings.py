"""Ratings that follow a known rule are predicted; the errors are those of the test items."""

from __future__ import annotations

import numpy as np
import pytest

from heliograph.config import RatingsConfig
from heliograph.models.ratings import RatingModel, Ratings
from heliograph.rating_errors import compare_ratings
from heliograph.splits import leave_one_out
from worlds import interactions

USERS, ITEMS = 30, 12
GENTLE = RatingsConfig(factors=2, regularization=1e-4, iterations=30)


def world(rule: np.ndarray) -> Ratings:
    """Rate everything, by the (users, items) rule."""
    users, items = np.indices(rule.shape)
    return Ratings(users.ravel(), items.ravel().astype(np.int32), rule.ravel())


def test_users_who_are_strict_and_items_that_are_good_are_told_by_biases() -> None:
    rule = 3 + np.linspace(-1, 1, USERS)[:, None] + np.linspace(-0.5, 0.5, ITEMS)
    ratings = world(rule)
    known = (ratings.users + ratings.items) % 4 != 1
    config = GENTLE.model_copy(update={"factors": 0})
    model = RatingModel.fit(config, ratings.where(known), USERS, ITEMS, seed=0)
    others = ratings.where(~known)
    assert model.predict(others.users, others.items) == pytest.approx(others.values, abs=0.01)


def test_taste_is_told_by_the_inner_product_and_not_by_biases() -> None:
    sides = np.where(np.arange(USERS) % 2, 1, -1)[:, None] * np.where(np.arange(ITEMS) % 2, 1, -1)
    ratings = world(3.0 + sides)  # odd users love odd items
    known = np.random.default_rng(0).random(len(ratings)) < 0.7
    others = ratings.where(~known)
    errors = {}
    for factors in (0, 2):
        config = RatingsConfig(factors=factors, regularization=0.01)
        model = RatingModel.fit(config, ratings.where(known), USERS, ITEMS, seed=0)
        errors[factors] = np.abs(model.predict(others.users, others.items) - others.values).mean()
    assert errors[2] < 0.1
    assert errors[0] > 0.9


def test_whoever_has_rated_nothing_is_average() -> None:
    ratings = Ratings(np.array([0, 0]), np.array([0, 1], np.int32), np.array([2.0, 4.0]))
    model = RatingModel.fit(GENTLE, ratings, n_users=2, n_items=3, seed=0)
    assert model.predict(np.array([1]), np.array([2], np.int32)) == pytest.approx([3.0])


def test_of_two_ratings_of_one_item_by_one_user_the_later_counts() -> None:
    ratings = Ratings(np.array([0, 0, 1]), np.array([0, 0, 0], np.int32), np.array([1.0, 5.0, 5.0]))
    model = RatingModel.fit(GENTLE, ratings, n_users=2, n_items=1, seed=0)
    assert model.predict(np.array([0]), np.array([0], np.int32)) == pytest.approx([5.0])


def test_the_test_items_are_predicted_from_training_ratings_alone() -> None:
    split = leave_one_out(interactions([[0, 1, 2, 3]] * 5 + [[0, 1]]))
    values = np.array([1.0, 2.0, 9.0, 2.0] * 5 + [1.0, 2.0])
    found = compare_ratings(RatingsConfig(), split, values, n_items=4, seed=0)
    assert set(found) == {"mean of all ratings", "biases", "inner product"}
    assert found["mean of all ratings"] == pytest.approx({"rmse": 0.5, "mae": 0.5, "ratings": 5})


@pytest.mark.parametrize("values", [[np.nan] * 6, [1.0] * 6], ids=["no values", "all the same"])
def test_nothing_is_predicted_where_events_say_nothing(values: list[float]) -> None:
    split = leave_one_out(interactions([[0, 1, 2], [1, 2, 0]]))
    assert compare_ratings(RatingsConfig(), split, np.array(values), n_items=3, seed=0) == {}
