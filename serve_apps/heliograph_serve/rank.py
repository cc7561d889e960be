"""The ranking deployment: the item LM on vLLM, a batch at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from heliograph.bundle import Bundle
from heliograph.config import ServeConfig
from heliograph.events import History
from heliograph.models.item_tokens import FIRST_ITEM, prompt
from heliograph.ranking.vllm_engine import Best, Engine, Query, start_engine
from heliograph_serve.autoscaling import Metered, WorkMeter
from heliograph_serve.crew import Answers, own_name
from heliograph_serve.lanes import lane_of
from heliograph_serve.shelf import SWITCH_INTERVAL_S, Holder, Origin, Shelf


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

    @property
    def lane(self) -> int:
        """Return the lane, which leads to the replica that may still know the prompt."""
        return lane_of(self.history)

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

    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, how many the replica still knew."""


@dataclass(frozen=True)
class BundleRanker:
    """The ranking engine of one bundle."""

    engine: Engine
    max_history: int
    """Items of a history that the item LM reads, the newest."""


class Rank(Metered, Holder[BundleRanker]):
    """Holds the ranking engine of the served bundle, and of one beside it."""

    meter: WorkMeter

    def __init__(self, origin: Origin, serve: ServeConfig) -> None:
        # the engine's thread must not keep the network's waiting for 5 ms, Python's default
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.shelf = Shelf(
            origin, partial(_start, serve=serve), close=lambda ranker: ranker.engine.close()
        )
        self.meter = WorkMeter()
        self.replica = own_name()

    async def rank(self, bundle_id: str, scorings: Sequence[Scoring]) -> Answers[Ranked]:
        """Return the final ranking of each request.

        Raises:
            NotHeld: The numbers are of a bundle that this replica does not hold.
        """
        ranker = self.shelf[bundle_id]
        with self.meter:
            best = await ranker.engine.rank([one.query(ranker.max_history) for one in scorings])
        return Answers([_ranked(one) for one in best], self.replica)

    async def check_health(self) -> None:
        """Tell Serve to replace this replica when an engine that is in use has died."""
        for ranker in self.shelf.in_use.values():
            ranker.engine.check()
        await super().check_health()


def _ranked(best: Best) -> Ranked:
    return Ranked(
        best.tokens - FIRST_ITEM, best.log_probabilities, best.prompt_tokens, best.cached_tokens
    )


def _start(bundle: Bundle, serve: ServeConfig) -> BundleRanker:
    max_history = bundle.config.models.item_lm.max_history
    n_items = len(bundle.catalogue())
    return BundleRanker(start_engine(bundle.item_lm(), n_items, max_history, serve), max_history)
