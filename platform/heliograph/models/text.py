"""Content-based: items whose text is like that of the items a user had last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from heliograph.config import TextConfig
from heliograph.events import History
from heliograph.models import MODEL_FILE

MAX_HALF_LIVES = 24
"""Items further back weigh less than 2 ** -24 of the newest: nothing, in float32."""

NOTHING = 1e-6
"""Centred vectors shorter than this are rounding errors: the text is like the mean of all."""


class Text:
    """Scores an item by the cosine between its text and a recency-weighted mean of the history."""

    def __init__(self, item_vectors: NDArray[np.float32], half_life: float) -> None:
        """Keep the vectors, (items, dim) of length 1."""
        self.item_vectors = item_vectors
        self.half_life = half_life
        age = np.arange(np.ceil(MAX_HALF_LIVES * half_life))
        self.weights = (0.5 ** (age / half_life)).astype(np.float32)

    @classmethod
    def fit(cls, config: TextConfig, vectors: NDArray[np.float32]) -> Self:
        """Centre the vectors, since all texts of one shop share a direction that says nothing."""
        mean = vectors.mean(axis=0, dtype=np.float64) if len(vectors) > 1 else np.zeros(1)
        return cls(_unit(vectors - mean.astype(np.float32)), config.half_life)

    def queries(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Average each history's vectors, an item `half_life` places back weighing half."""
        users = np.zeros((len(histories), self.item_vectors.shape[1]), np.float32)
        for row, history in enumerate(histories):
            newest = history[::-1][: len(self.weights)]
            users[row] = self.weights[: len(newest)] @ self.item_vectors[newest]
        return _unit(users)

    def scores(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Return cosines with every item."""
        return self.queries(histories) @ self.item_vectors.T

    def save(self, folder: Path) -> None:
        """Write the vectors and the half-life."""
        save_file(
            {"item_vectors": self.item_vectors, "half_life": np.array([self.half_life])},
            folder / MODEL_FILE,
        )

    @staticmethod
    def map_vectors(folder: Path) -> NDArray[np.float32]:
        """Map the saved (items, dim) vectors into memory: processes share them, read-only."""
        path = folder / MODEL_FILE
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(size))["item_vectors"]
        start = 8 + size + entry["data_offsets"][0]
        return np.memmap(path, np.float32, "r", start, tuple(entry["shape"]))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        arrays = load_file(folder / MODEL_FILE)
        return cls(arrays["item_vectors"], float(arrays["half_life"][0]))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.zeros_like(vectors)
    np.divide(vectors, lengths, out=unit, where=lengths > NOTHING)
    return unit
