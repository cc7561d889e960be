"""How far predicted ratings are from given ones, for explicit feedback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
