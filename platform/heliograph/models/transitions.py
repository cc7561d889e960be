"""What follows what: item-to-item counts in order of time, with logarithmic evidence.

The score of item a after the history b1, b2, ... (newest first) is
`sum_j decay^j log(1 + C[b_j, a] items / tau) + beta log pop(a)`, where C counts "a after b"
weighted by 1 / sqrt(distance). Source: PCTM, RecSys 2026.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy import sparse

from heliograph.config import TransitionsConfig
from heliograph.index import distinct
from heliograph.interactions import History, Interactions
from heliograph.models import MODEL_FILE, weights_by_age

MIN_WEIGHT = 1e-3
"""Items of a history that weigh less are left out: with a decay of 0.6, all but 14."""


class Transitions:
    """Scores the followers of a history's newest items; others get -inf."""

    def __init__(
        self, evidence: sparse.csr_array, log_popularity: NDArray[np.float32], decay: float
    ) -> None:
        """Keep the fitted parts.

        Args:
            evidence: (items, items), row b column a is log(1 + C[b, a] items / tau).
            log_popularity: (items,), beta log pop(a).
            decay: Weight ratio of neighbouring items of a history.
        """
        self.evidence = evidence
        self.log_popularity = log_popularity
        length = 1 + int(np.log(MIN_WEIGHT) / np.log(decay))
        self.weights = (decay ** np.arange(length)).astype(np.float32)
        self.decay = decay

    @classmethod
    def fit(cls, config: TransitionsConfig, interactions: Interactions, n_items: int) -> Self:
        """Count which item follows which within the window."""
        counts = count_transitions(interactions, config.window, n_items)
        counts.data = np.log1p(counts.data * n_items / config.smoothing).astype(np.float32)
        popularity = np.maximum(np.bincount(interactions.items, minlength=n_items), 1)
        log_popularity = (config.popularity_exponent * np.log(popularity)).astype(np.float32)
        return cls(keep_largest(counts, config.neighbours), log_popularity, config.decay)

    def scores(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Sum the evidence of each history's newest items."""
        found = self.followers(histories)
        scores = np.full(found.shape, -np.inf, np.float32)
        rows = np.repeat(np.arange(len(histories)), np.diff(found.indptr))
        scores[rows, found.indices] = found.data + self.log_popularity[found.indices]
        return scores

    def followers(self, histories: Sequence[History]) -> sparse.csr_array:
        """Return (histories, items) the evidence of the items that have any.

        It is the score without the part that popularity has in it. The items of a row are in
        order of number.
        """
        newest = [history[::-1][: len(self.weights)] for history in histories]
        lengths = [len(items) for items in newest]
        weights = sparse.csr_array(
            (
                np.concatenate([np.zeros(0, np.float32), *(self.weights[:n] for n in lengths)]),
                np.concatenate([np.zeros(0, np.int32), *newest]),
                np.cumsum([0, *lengths], dtype=np.int32),
            ),
            shape=(len(histories), self.evidence.shape[0]),
        )
        found = weights @ self.evidence
        found.sort_indices()
        return found

    def parts(self, history: History, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `HistoryModel`; the score is that of `followers`."""
        evidence = self.evidence[distinct(history)][:, items].toarray()
        return np.asarray(evidence.T * weights_by_age(history, self.weights), np.float32)

    def extended(self, n_items: int) -> Self:
        """Return the model for more items, which follow nothing and which nothing follows."""
        more = n_items - self.evidence.shape[0]
        parts = self.evidence.data, self.evidence.indices
        evidence = sparse.csr_array(
            (*parts, np.pad(self.evidence.indptr, (0, more), mode="edge")), (n_items, n_items)
        )
        return type(self)(evidence, np.pad(self.log_popularity, (0, more)), self.decay)

    def save(self, folder: Path) -> None:
        """Write the evidence as the three arrays of a sparse matrix."""
        save_file(
            {
                "data": self.evidence.data,
                "indices": self.evidence.indices.astype(np.int32),
                "indptr": self.evidence.indptr.astype(np.int64),
                "log_popularity": self.log_popularity,
                "decay": np.array([self.decay]),
            },
            folder / MODEL_FILE,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        arrays = load_file(folder / MODEL_FILE)
        n_items = len(arrays["log_popularity"])
        evidence = sparse.csr_array(
            (arrays["data"], arrays["indices"], arrays["indptr"]), shape=(n_items, n_items)
        )
        return cls(evidence, arrays["log_popularity"], float(arrays["decay"][0]))


def count_transitions(interactions: Interactions, window: int, n_items: int) -> sparse.csr_array:
    """Count "column after row", each pair weighted by 1 / sqrt(distance).

    Returns:
        (items, items) sparse counts.
    """
    users = np.repeat(np.arange(len(interactions.user_ids)), np.diff(interactions.offsets))
    total = sparse.csr_array((n_items, n_items), dtype=np.float64)
    for distance in range(1, window + 1):
        same_user = users[distance:] == users[:-distance]
        before = interactions.items[:-distance][same_user]
        after = interactions.items[distance:][same_user]
        weight = np.full(len(before), distance**-0.5)
        total += sparse.csr_array((weight, (before, after)), shape=(n_items, n_items))
    return total


def keep_largest(matrix: sparse.csr_array, count: int) -> sparse.csr_array:
    """Keep the `count` largest entries of each row."""
    lengths = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-matrix.data, rows))
    rank = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], lengths)
    kept = order[rank < count]
    ends = np.concatenate([[0], np.cumsum(np.minimum(lengths, count))])
    largest = sparse.csr_array(
        (matrix.data[kept], matrix.indices[kept].astype(np.int32), ends), shape=matrix.shape
    )
    largest.sort_indices()
    return largest
