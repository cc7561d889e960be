"""How far predicted ratings are from given ones, for explicit feedback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heliograph.config import RatingsConfig
from heliograph.interactions import Interactions
from heliograph.models.ratings import RatingModel, Ratings
from heliograph.splits import LeaveOneOut


@dataclass(frozen=True)
class RatingErrors:
    """Errors of each rating, for tests of significance, and their summaries.

    Herlocker, Konstan, Terveen, Riedl: Evaluating collaborative filtering recommender systems,
    ACM TOIS 22(1), 2004, section 4.1.
    """

    errors: NDArray[np.float64]
    """(ratings,) predicted - actual, in the unit of the ratings."""

    @property
    def rmse(self) -> float:
        """Root of the mean squared error: large errors weigh more."""
        return float(np.sqrt(np.mean(self.errors**2)))

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return float(np.mean(np.abs(self.errors)))


def rating_errors(predicted: ArrayLike, actual: ArrayLike) -> RatingErrors:
    """Compare predicted with actual ratings, both (ratings,).

    Raises:
        ValueError: Their shapes differ, there are none, or one is no finite number.
    """
    guess, truth = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    if guess.shape != truth.shape or guess.ndim != 1 or not len(guess):
        raise ValueError(
            f"{guess.shape} predicted and {truth.shape} actual ratings cannot be compared; "
            "give one prediction for each rating, and at least one"
        )
    wrong = np.flatnonzero(~np.isfinite(guess) | ~np.isfinite(truth))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"rating {row} is {truth[row]} and its prediction {guess[row]}; "
            f"{len(wrong)} such rows are not finite: leave out what has no rating or no prediction"
        )
    return RatingErrors(guess - truth)


def compare_ratings(
    config: RatingsConfig,
    split: LeaveOneOut,
    values: NDArray[np.float64],
    n_items: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Predict the rating of each user's test item from the training ratings.

    Args:
        config: Of the inner-product model.
        split: Of the events.
        values: (events,) of `split.all`; NaN where an event has none.
        n_items: Size of the catalogue.
        seed: Of the model's start.

    Returns:
        Model -> `rmse`, `mae` in the unit of the ratings, and `ratings`, how many were predicted;
        nothing if events have no values, or all the same.
    """
    ratings = _ratings(split.all, values)
    train = ratings.where(_in_training(split) & np.isfinite(values))
    test = ratings.where(_is_test(split) & np.isfinite(values))
    if not len(test) or len(np.unique(train.values)) < 2:
        return {}
    n_users = len(split.all.user_ids)
    biases = config.model_copy(update={"factors": 0})
    predicted = {"mean of all ratings": np.full(len(test), train.values.mean())} | {
        name: RatingModel.fit(settings, train, n_users, n_items, seed).predict(
            test.users, test.items
        )
        for name, settings in (("biases", biases), ("inner product", config))
    }
    return {name: _summary(rating_errors(guess, test.values)) for name, guess in predicted.items()}


def _summary(found: RatingErrors) -> dict[str, float]:
    return {"rmse": found.rmse, "mae": found.mae, "ratings": len(found.errors)}


def _ratings(interactions: Interactions, values: NDArray[np.float64]) -> Ratings:
    return Ratings(interactions.owners(), interactions.items, values)


def _is_test(split: LeaveOneOut) -> NDArray[np.bool_]:
    last = np.zeros(len(split.all), bool)
    last[split.all.offsets[1:][split.users] - 1] = True
    return last


def _in_training(split: LeaveOneOut) -> NDArray[np.bool_]:
    validation = np.zeros(len(split.all), bool)
    validation[split.all.offsets[1:][split.users] - 2] = True
    training: NDArray[np.bool_] = ~(_is_test(split) | validation)
    return training
