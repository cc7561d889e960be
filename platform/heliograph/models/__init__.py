"""The recommenders: one file an algorithm, behind one small interface.

A model is fitted on interactions or on the items' texts, and scores every item for a batch of
histories. It knows item numbers, not identifiers, and nothing about which items a user has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from heliograph.index import distinct
from heliograph.interactions import History

MODEL_FILE = "model.safetensors"


class Model(Protocol):
    """What every recommender can do."""

    def scores(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Score all items for each history.

        Args:
            histories: Item numbers, oldest first; may be empty.

        Returns:
            (histories, items), higher is better; -inf where the model has no opinion.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the model into a folder, without pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...


@runtime_checkable
class VectorModel(Model, Protocol):
    """A model whose score is an inner product, so that an index can find the best items."""

    item_vectors: NDArray[np.float32]
    """(items, dim)"""

    def queries(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Return (histories, dim) user vectors; zero for a history that says nothing."""
        ...


class HistoryModel(Protocol):
    """A model whose score is a sum over the items of a history."""

    def parts(self, history: History, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return (items, distinct items of the history, ascending) what each adds to a score."""
        ...


def weights_by_age(history: History, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (distinct items of a history, ascending) the sum of each one's weights.

    Args:
        history: Item numbers, oldest first.
        weights: Of the newest, of the one before, and so on; older ones weigh nothing.
    """
    consumed, newest = distinct(history), history[::-1][: len(weights)]
    places = np.searchsorted(consumed, newest)
    total = np.bincount(places, weights[: len(newest)], minlength=len(consumed))
    return total.astype(np.float32)
