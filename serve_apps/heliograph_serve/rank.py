"""The ranking deployment: the item LM on vLLM, a batch at a time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from heliograph.bundle import Bundle
from heliograph.config import EmbeddingConfig, ServeConfig
from heliograph.interactions import History
from heliograph.item_changes import Changes
from heliograph.models.item_tokens import FIRST_ITEM, prompt
from heliograph.ranking.engine import Best, Engine, Query
from heliograph.ranking.engine_items import ItemEmbeddings
from heliograph.ranking.vllm_engine import start_engine
from heliograph.revision import Encode, encoding, revise
from heliograph_serve.autoscaling import Metered, WorkMeter
from heliograph_serve.columns import columns_of
from heliograph_serve.crew import Answers, own_name
from heliograph_serve.garbage import collect_seldom
from heliograph_serve.item_follower import Edition, ItemFollower, log_of
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

    def among(self, n_items: int) -> Scoring:
        """Return the request without items whose number is too large for an engine."""
        known = self.items < n_items
        return replace(
            self,
            history=self.history[self.history < n_items],
            items=self.items[known],
            evidence=self.evidence[known],
            excluded=self.excluded[self.excluded < n_items],
            k=min(self.k, n_items),
        )

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

    def among(self, n_items: int) -> Ranked:
        """Return the answer without items whose number is too large for a catalogue."""
        if max(self.items.tolist(), default=0) < n_items:  # a few: quicker than by numpy
            return self
        known = self.items < n_items
        return replace(
            self, items=self.items[known], log_probabilities=self.log_probabilities[known]
        )


@dataclass(frozen=True)
class BundleRanker:
    """The ranking engine of one bundle."""

    engine: Engine
    max_history: int
    """Items of a history that the item LM reads, the newest."""

    bundle: Bundle
    embeddings: ItemEmbeddings
    """Of items that have changed since the bundle."""

    n_items: int
    """Those that requests may name; of others the engine knows nothing."""

    fits: bool = True
    """Whether the engine has room for every item."""

    def query(self, scoring: Scoring, lags: bool) -> Query:
        """Put a request into the words of the engine."""
        if lags or not self.fits:
            scoring = scoring.among(self.n_items)
        return scoring.query(self.max_history)

    async def amended(self, changes: Changes) -> BundleRanker:
        """Tell the engine of changes of items; all rankers of one bundle share it."""
        if not changes.change:
            return self
        config = self.bundle.config
        revision = await asyncio.to_thread(
            lambda: revise(self.bundle.catalogue(), config, changes, encoding(config.embedding))
        )
        news = await asyncio.to_thread(self.embeddings.news, revision)
        await self.engine.take_up(news)
        self.embeddings.told(news)
        n_items = self.embeddings.n_items
        return replace(self, n_items=n_items, fits=n_items == revision.n_items)


class Rank(Metered, Holder[BundleRanker]):
    """Holds the ranking engine of the served bundle, and of one beside it."""

    meter: WorkMeter

    def __init__(self, origin: Origin, serve: ServeConfig) -> None:
        collect_seldom()
        # the engine's thread must not keep the network's waiting for 5 ms, Python's default
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.shelf = Shelf(
            origin,
            partial(_start, serve=serve),
            close=lambda ranker: ranker.engine.close(),
            amend=BundleRanker.amended,
        )
        self.items = ItemFollower(log_of(serve, origin.bundles), self.shelf)
        self.encoders: dict[EmbeddingConfig, Encode] = {}
        self.meter = WorkMeter()
        self.replica = own_name()

    async def rank(self, edition: Edition, scorings: Sequence[Scoring]) -> Answers[Ranked]:
        """Return the final ranking of each request.

        Raises:
            NotHeld: The numbers are of a bundle that this replica does not hold.
        """
        lags = await self.items.lags_behind(edition)
        ranker = self.shelf[edition.bundle]
        with self.meter:
            best = await ranker.engine.rank([ranker.query(one, lags) for one in scorings])
        return Answers(columns_of([_ranked(one) for one in best]), self.replica)

    async def encode(self, config: EmbeddingConfig, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the (texts, dim) vectors of an encoder, loaded when it is first asked.

        This process has torch anyway, and no other of the graph has.

        Raises:
            InputError: The encoder is not here.
        """
        if config not in self.encoders:
            self.encoders = {config: encoding(config)}
        return await asyncio.to_thread(self.encoders[config], texts)

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
    model = bundle.item_lm()
    engine = start_engine(model, n_items, max_history, serve)
    embeddings = ItemEmbeddings(
        model, bundle.text_projection(), bundle.text(), n_items + serve.room_for_items
    )
    return BundleRanker(engine, max_history, bundle, embeddings, n_items)
