"""Content-based: items whose text is like that of the items a user had last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from heliograph.config import TextConfig
from heliograph.index import distinct
from heliograph.interactions import History
from heliograph.models import MODEL_FILE, weights_by_age
from heliograph.workspace import InputError

TEXT_LAYOUT = 2
"""Counts the changes of what the file holds."""

MAX_HALF_LIVES = 24
"""Items further back weigh less than 2 ** -24 of the newest: nothing, in float32."""

NOTHING = 1e-6
"""Centred vectors shorter than this are rounding errors: the text is like the mean of all."""


class Text:
    """Scores an item by the cosine between its text and a recency-weighted mean of the history."""

    def __init__(
        self,
        item_vectors: NDArray[np.float32],
        half_life: float,
        mean: NDArray[np.float32] | None = None,
    ) -> None:
        """Keep the vectors, (items, dim) of length 1, and the (dim,) mean that was taken off them.

        Without the mean, as older versions wrote it, no vector can be added.
        """
        self.item_vectors = item_vectors
        self.mean = mean
        self.half_life = half_life
        age = np.arange(np.ceil(MAX_HALF_LIVES * half_life))
        self.weights = (0.5 ** (age / half_life)).astype(np.float32)

    @classmethod
    def fit(cls, config: TextConfig, vectors: NDArray[np.float32]) -> Self:
        """Centre the vectors, since all texts of one shop share a direction that says nothing."""
        dim = vectors.shape[1]
        mean = vectors.mean(axis=0, dtype=np.float64) if len(vectors) > 1 else np.zeros(dim)
        centre = mean.astype(np.float32)
        return cls(_unit(vectors - centre), config.half_life, centre)

    def centred(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (texts, dim) vectors of the encoder as those of the items are kept.

        Raises:
            InputError: An older version has fitted the model.
        """
        if self.mean is None:
            raise InputError(
                "the text model of this bundle is of an older heliograph, and no item can be added "
                "to it; build the bundle again"
            )
        return _unit(vectors - self.mean)

    def revised(
        self, n_items: int, numbers: NDArray[np.int32], vectors: NDArray[np.float32]
    ) -> Self:
        """Return the model for as many items or more, some of them with (numbers, dim) vectors.

        The vectors are the encoder's, and every new item has one.
        """
        revised = np.zeros((n_items, self.item_vectors.shape[1]), np.float32)
        revised[: len(self.item_vectors)] = self.item_vectors
        revised[numbers] = self.centred(vectors)
        return type(self)(revised, self.half_life, self.mean)

    def queries(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Average each history's vectors, an item `half_life` places back weighing half."""
        users = np.zeros((len(histories), self.item_vectors.shape[1]), np.float32)
        for row, history in enumerate(histories):
            newest = history[::-1][: len(self.weights)]
            users[row] = self.weights[: len(newest)] @ self.item_vectors[newest]
        return _unit(users)

    def parts(self, history: History, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `HistoryModel`."""
        consumed = self.item_vectors[distinct(history)]
        weighted = weights_by_age(history, self.weights)[:, None] * consumed
        length = np.linalg.norm(weighted.sum(axis=0))
        if length <= NOTHING:
            return np.zeros((len(items), len(consumed)), np.float32)
        return np.asarray(self.item_vectors[items] @ weighted.T / length, np.float32)

    def scores(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Return cosines with every item."""
        return self.queries(histories) @ self.item_vectors.T

    def save(self, folder: Path) -> None:
        """Write the vectors and the half-life."""
        arrays = {"item_vectors": self.item_vectors, "half_life": np.array([self.half_life])}
        if self.mean is not None:
            arrays["mean"] = self.mean
        save_file(arrays, folder / MODEL_FILE)

    @classmethod
    def mapped(cls, folder: Path) -> Self:
        """Read what `save` wrote, the vectors mapped into memory: processes share them."""
        path = folder / MODEL_FILE
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(size))["item_vectors"]
        start = 8 + size + entry["data_offsets"][0]
        return cls._read(path, np.memmap(path, np.float32, "r", start, tuple(entry["shape"])))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls._read(folder / MODEL_FILE, None)

    @classmethod
    def _read(cls, path: Path, vectors: NDArray[np.float32] | None) -> Self:
        with safe_open(path, "np") as arrays:
            names = set(arrays.keys())
            found = {name: arrays.get_tensor(name) for name in names - {"item_vectors"}}
            if vectors is None:
                vectors = arrays.get_tensor("item_vectors")
        return cls(vectors, float(found["half_life"][0]), found.get("mean"))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.zeros_like(vectors)
    np.divide(vectors, lengths, out=unit, where=lengths > NOTHING)
    return unit
