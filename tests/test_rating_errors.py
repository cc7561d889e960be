"""Errors of rating predictions."""

from __future__ import annotations

import numpy as np
import pytest

from heliograph.rating_errors import rating_errors


def test_large_errors_weigh_more_in_the_rmse() -> None:
    found = rating_errors([3, 4, 5, 1], [3, 4, 5, 5])
    assert (found.mae, found.rmse) == (1, 2)
    assert found.errors.tolist() == [0, 0, 0, -4]


def test_a_perfect_prediction_has_no_error() -> None:
    found = rating_errors(np.array([2.5, 4]), np.array([2.5, 4]))
    assert (found.mae, found.rmse) == (0, 0)


@pytest.mark.parametrize(("predicted", "actual"), [([1], [1, 2]), ([], []), ([[1]], [[1]])])
def test_ratings_that_do_not_pair_are_refused(predicted: list[float], actual: list[float]) -> None:
    with pytest.raises(ValueError, match="give one prediction for each rating"):
        rating_errors(predicted, actual)


def test_a_missing_rating_is_named() -> None:
    with pytest.raises(ValueError, match="rating 1 is nan and its prediction 4.0"):
        rating_errors([3, 4], [3, np.nan])
