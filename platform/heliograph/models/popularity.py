"""The most popular items, the same for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from heliograph.config import PopularityConfig
from heliograph.interactions import History, Interactions
from heliograph.models import MODEL_FILE

MICROSECONDS_A_DAY = 86_400_000_000


class Popularity:
    """Scores an item by the logarithm of its interactions, older ones weighing less if asked."""

    def __init__(self, item_scores: NDArray[np.float32]) -> None:
        self.item_scores = item_scores

    @classmethod
    def fit(cls, config: PopularityConfig, interactions: Interactions, n_items: int) -> Self:
        """Count interactions, each halved by every `half_life_days` of its age."""
        weights = np.ones(len(interactions))
        if config.half_life_days is not None and len(interactions):
            age_us = interactions.timestamps.max() - interactions.timestamps
            weights = 0.5 ** (age_us / (config.half_life_days * MICROSECONDS_A_DAY))
        counts = np.bincount(interactions.items, weights, minlength=n_items)
        return cls(np.log1p(counts).astype(np.float32))

    def scores(self, histories: Sequence[History]) -> NDArray[np.float32]:
        """Return the same scores for every history."""
        return np.tile(self.item_scores, (len(histories), 1))

    @cached_property
    def ranking(self) -> NDArray[np.int32]:
        """All items, most popular first, equals in order of number; sorted once."""
        return np.argsort(-self.item_scores, kind="stable").astype(np.int32)

    def extended(self, n_items: int) -> Self:
        """Return the model for more items, which nobody has consumed."""
        return type(self)(np.pad(self.item_scores, (0, n_items - len(self.item_scores))))

    def save(self, folder: Path) -> None:
        """Write the item scores."""
        save_file({"item_scores": self.item_scores}, folder / MODEL_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(load_file(folder / MODEL_FILE)["item_scores"])
