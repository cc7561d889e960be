"""Explicit ratings: biases and the inner product of latent vectors, by least squares.

A rating is predicted as mean + bias of the user + bias of the item + user vector . item vector.
Source: Koren, Bell, Volinsky, Matrix Factorization Techniques for Recommender Systems, 2009; fitted
by alternating least squares with the penalty weighted by the number of ratings (Zhou, Wilkinson,
Schreiber, Pan, Large-scale Parallel Collaborative Filtering for the Netflix Prize, 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from heliograph.config import RatingsConfig

ROWS_A_CHUNK = 4096
"""Users or items solved for at once: bounds memory to as many small matrices."""


@dataclass(frozen=True)
class Ratings:
    """Who rated what how."""

    users: NDArray[np.int64]
    """(ratings,) user numbers."""

    items: NDArray[np.int32]
    """(ratings,) item numbers."""

    values: NDArray[np.float64]
    """(ratings,) all finite."""

    def __len__(self) -> int:
        return len(self.values)

    def where(self, kept: NDArray[np.bool_]) -> Self:
        """Keep some of the ratings, by (ratings,) true."""
        return type(self)(self.users[kept], self.items[kept], self.values[kept])


class RatingModel:
    """Predicts what a known user would rate an item."""

    def __init__(
        self,
        mean: float,
        bounds: tuple[float, float],
        users: NDArray[np.float64],
        items: NDArray[np.float64],
    ) -> None:
        """Keep what was fitted.

        Args:
            mean: Of all ratings.
            bounds: Smallest and largest rating; no prediction is beyond.
            users: (users, 1 + factors) biases, then vectors.
            items: (items, 1 + factors) the same.
        """
        self.mean = mean
        self.bounds = bounds
        self.users = users
        self.items = items

    @classmethod
    def fit(
        cls, config: RatingsConfig, ratings: Ratings, n_users: int, n_items: int, seed: int
    ) -> Self:
        """Minimise the squared error; with no factors, of biases alone.

        Args:
            config: Factors, penalty, iterations.
            ratings: At least one.
            n_users: Users that may be asked about; those without a rating are average.
            n_items: Items, likewise.
            seed: Of the first item vectors.
        """
        ratings = ratings.where(_is_latest(ratings))
        mean = float(ratings.values.mean())
        left = ratings.values - mean
        noise = np.random.default_rng(seed).normal(scale=0.1, size=(n_items, config.factors))
        items = np.concatenate([np.zeros((n_items, 1)), noise], axis=1)
        users = np.zeros((n_users, 1 + config.factors))
        by_user = sparse.csr_matrix((left, (ratings.users, ratings.items)), (n_users, n_items))
        by_item = by_user.T.tocsr()
        for _ in range(config.iterations):
            users = _solve(by_user, items, config.regularization)
            items = _solve(by_item, users, config.regularization)
        bounds = float(ratings.values.min()), float(ratings.values.max())
        return cls(mean, bounds, users, items)

    def predict(self, users: NDArray[np.int64], items: NDArray[np.int32]) -> NDArray[np.float64]:
        """Predict (pairs,) ratings of users for items."""
        of_users, of_items = self.users[users], self.items[items]
        biases = of_users[:, 0] + of_items[:, 0]
        products = np.einsum("pf,pf->p", of_users[:, 1:], of_items[:, 1:])
        predicted: NDArray[np.float64] = np.clip(self.mean + biases + products, *self.bounds)
        return predicted


def _is_latest(ratings: Ratings) -> NDArray[np.bool_]:
    """Return (ratings,) true where the same user does not rate the same item later."""
    pairs = (ratings.users << 32) | ratings.items
    _, places = np.unique(pairs[::-1], return_index=True)
    latest = np.zeros(len(ratings), bool)
    latest[len(ratings) - 1 - places] = True
    return latest


def _solve(
    ratings: sparse.csr_matrix, others: NDArray[np.float64], regularization: float
) -> NDArray[np.float64]:
    """Return the (rows, 1 + factors) bias and vector of each row that fit its ratings best.

    Args:
        ratings: (rows, columns) what is above the mean.
        others: (columns, 1 + factors) bias and vector of each column.
        regularization: Penalty of a squared coefficient, for each rating of the row.
    """
    features = others.copy()
    features[:, 0] = 1.0  # what the row's own bias is multiplied with
    size = features.shape[1]
    squares = (features[:, :, None] * features[:, None, :]).reshape(len(features), -1)
    solved = np.zeros((ratings.shape[0], size))
    for start in range(0, ratings.shape[0], ROWS_A_CHUNK):
        part = ratings[start : start + ROWS_A_CHUNK]
        rated = sparse.csr_matrix((np.ones(part.nnz), part.indices, part.indptr), part.shape)
        unexplained = part.copy()
        unexplained.data = part.data - others[part.indices, 0]
        counts = np.maximum(np.diff(part.indptr), 1)  # who has rated nothing is average
        grams = (rated @ squares).reshape(-1, size, size)
        grams += (regularization * counts)[:, None, None] * np.eye(size)
        right = (unexplained @ features)[:, :, None]
        solved[start : start + ROWS_A_CHUNK] = np.linalg.solve(grams, right)[:, :, 0]
    return solved
