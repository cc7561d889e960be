"""Collaborative filtering: implicit-feedback matrix factorisation by alternating least squares.

`implicit` fits the item factors. A user is folded in from the history alone, with the same
least-squares step, so a user who was not there at training time is no special case.
Source: Hu, Koren, Volinsky, Collaborative Filtering for Implicit Feedback Datasets, 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy import sparse
from threadpoolctl import threadpool_limits

from heliograph.config import AlsConfig
from heliograph.index import distinct
from heliograph.interactions import History, Interactions
from heliograph.models import MODEL_FILE

MIN_RIDGE = 1e-5
"""Regularisation at least, relative to the mean of the Gram matrix's diagonal: where there are more
factors than items, or no regularisation at all, float32 could not solve for a user otherwise."""

SOLVED_TOGETHER = 64
"""Users whose equations are in memory at once."""


class Als:
    """Scores an item by the inner product of its factors and the user's."""

    def __init__(
        self, item_vectors: NDArray[np.float32], confidence: float, regularization: float
    ) -> None:
        """Keep the fitted factors, (items, factors), and what folding a user in needs."""
        self.item_vectors = item_vectors
        self.confidence = confidence
        self.regularization = regularization
        gram = item_vectors.T @ item_vectors
        ridge = max(regularization, MIN_RIDGE * float(gram.trace()) / len(gram))
        self._gram = gram + np.float32(ridge) * np.eye(len(gram), dtype=np.float32)

    @classmethod
    def fit(cls, config: AlsConfig, interactions: Interactions, n_items: int, seed: int) -> Self:
        """Factorise the matrix of who interacted with what."""
        from implicit.als import AlternatingLeastSquares  # folding users in does not need it

        users = np.repeat(np.arange(len(interactions.user_ids)), np.diff(interactions.offsets))
        matrix = sparse.csr_matrix(
            (np.ones(len(users), np.float32), (users, interactions.items)),
            shape=(len(interactions.user_ids), n_items),
        )
        matrix.data[:] = 1.0  # repeats count once: a user wants an item or does not
        with threadpool_limits(limits=1, user_api="blas"):  # implicit has its own threads
            model = AlternatingLeastSquares(
                factors=config.factors,
                regularization=config.regularization,
                alpha=config.confidence,
                iterations=config.iterations,
                random_state=seed,
                use_gpu=False,
            )
            model.fit(matrix, show_progress=False)
        vectors = np.ascontiguousarray(model.item_factors)
        return cls(vectors, config.confidence, config.regularization)

    def queries(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Solve for each user's factors; zero for an empty history."""
        users = np.zeros((len(histories), self.item_vectors.shape[1]), np.float32)
        for start in range(0, len(histories), SOLVED_TOGETHER):
            part = slice(start, start + SOLVED_TOGETHER)
            users[part] = self._fold_in(histories[part])
        return users

    def _fold_in(self, histories: Sequence[History]) -> NDArray[np.float32]:
        factors = self.item_vectors.shape[1]
        # weights: alpha for a seen item, 1 for the rest (already in the Gram matrix)
        left = np.broadcast_to(self._gram, (len(histories), factors, factors)).copy()
        right = np.zeros((len(histories), factors, 1), np.float32)
        for row, history in enumerate(histories):
            liked = self.item_vectors[distinct(history)]
            left[row] += (self.confidence - 1) * (liked.T @ liked)
            right[row, :, 0] = self.confidence * liked.sum(axis=0)
        users: NDArray[np.float32] = np.linalg.solve(left, right)[:, :, 0]
        return users

    def parts(self, history: History, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `HistoryModel`: the user's factors are a sum over what the user has liked."""
        liked = self.item_vectors[distinct(history)]
        left = self._gram + np.float32(self.confidence - 1) * (liked.T @ liked)
        added = np.linalg.solve(left, np.float32(self.confidence) * liked.T)
        return np.asarray(self.item_vectors[items] @ added, np.float32)

    def scores(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Multiply user factors with all item factors."""
        return self.queries(histories) @ self.item_vectors.T

    def extended(self, n_items: int) -> Self:
        """Return the model for more items, which have no factors: it says nothing of them."""
        vectors = np.pad(self.item_vectors, ((0, n_items - len(self.item_vectors)), (0, 0)))
        return type(self)(vectors, self.confidence, self.regularization)

    def save(self, folder: Path) -> None:
        """Write the item factors and the fold-in settings."""
        save_file(
            {
                "item_vectors": self.item_vectors,
                "settings": np.array([self.confidence, self.regularization]),
            },
            folder / MODEL_FILE,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        arrays = load_file(folder / MODEL_FILE)
        confidence, regularization = arrays["settings"].tolist()
        return cls(arrays["item_vectors"], confidence, regularization)
