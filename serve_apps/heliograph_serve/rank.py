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
from heliograph.ranking.vllm_engine import Query, start_engine


@dataclass(frozen=True)
class Scoring:
    """One request for a ranking."""

    history: History
    items: NDArray[np.int32]
    """(candidates,) item numbers."""

    evidence: NDArray[np.float32]
    """(candidates,) what retrieval adds to their log-probabilities."""

    excluded: NDArray[np.int32]
    """Item numbers that must not come back."""

    only_candidates: bool
    """Whether nothing else may come back: the request has a filter."""

    k: int
    """Items wanted."""

    def query(self, max_history: int) -> Query:
        """Put it into the words of the engine."""
        closed = np.full(len(self.excluded), -np.inf, np.float32)
        return Query(
            prompt=prompt(self.history, max_history),
            tokens=np.concatenate([self.items, self.excluded]).astype(np.int64) + FIRST_ITEM,
            added=np.concatenate([self.evidence, closed]),
            closed=self.only_candidates,
            k=self.k,
        )


@dataclass(frozen=True)
class Ranked:
    """The answer, best first."""

    items: NDArray[np.int32]
    """(k,) item numbers, fewer where fewer may come back."""

    log_probabilities: NDArray[np.float32]
    """(k,) of coming next, evidence included."""


class Rank:
    """Holds the ranking engine of a bundle."""

    def __init__(self, bundle: Path, serve: ServeConfig) -> None:
        # the engine's thread must not keep the network's waiting for 5 ms, Python's default
        sys.setswitchinterval(0.0005)
        opened = open_bundle(bundle)
        self.max_history = opened.config.models.item_lm.max_history
        n_items = len(opened.catalogue())
        self.engine = start_engine(opened.item_lm(), n_items, self.max_history, serve)

    async def rank(self, scorings: Sequence[Scoring]) -> list[Ranked]:
        """Return the final ranking of each request."""
        best = await self.engine.rank([scoring.query(self.max_history) for scoring in scorings])
        return [Ranked(one.tokens - FIRST_ITEM, one.log_probabilities) for one in best]

    def check_health(self) -> None:
        """Tell Serve to replace this replica when its engine has died."""
        self.engine.check()
