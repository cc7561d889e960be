"""The ranking deployment: the item LM on vLLM, a batch at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heliograph.bundle import open_bundle
from heliograph.config import ServeConfig
from heliograph.events import History
from heliograph.models.item_tokens import FIRST_ITEM, prompt
from heliograph.ranking import blend
from heliograph.ranking.vllm_engine import start_engine


@dataclass(frozen=True)
class Scoring:
    """One request for scores."""

    history: History
    items: NDArray[np.int32]
    """(candidates,) item numbers, 1 to 128 of them."""

    fused: NDArray[np.float32]
    """(candidates,) scores of retrieval."""


class Rank:
    """Holds the ranking engine of a bundle."""

    def __init__(self, bundle: Path, serve: ServeConfig) -> None:
        # the engine's thread must not keep the network's waiting for 5 ms, Python's default
        sys.setswitchinterval(0.0005)
        opened = open_bundle(bundle)
        self.max_history = opened.config.models.item_lm.max_history
        self.weight = opened.blend_weight()
        self.engine = start_engine(opened.item_lm(), self.max_history, serve)

    async def score(self, scorings: Sequence[Scoring]) -> list[NDArray[np.float32]]:
        """Return the final score of every candidate of each request."""
        log_probabilities = await self.engine.score(
            [prompt(scoring.history, self.max_history) for scoring in scorings],
            [(scoring.items + FIRST_ITEM).tolist() for scoring in scorings],
        )
        return [
            blend(scores, scoring.fused, self.weight)
            for scores, scoring in zip(log_probabilities, scorings, strict=True)
        ]

    def check_health(self) -> None:
        """Tell Serve to replace this replica when its engine has died."""
        self.engine.check()
