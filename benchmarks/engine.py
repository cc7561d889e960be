"""vLLM as it comes, and our ranking engine: the queries of the graph, without Ray and HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial

from figures import Plan, Row, row_of, timed
from heliograph.bundle import open_bundle
from heliograph.config import ServeConfig
from heliograph.ranking.engine import Best, Query
from heliograph.ranking.vllm_engine import start_engine
from ratios import ENGINE, FIRST_VISIT, ONE_AT_A_TIME, RAW_ENGINE
from raw_engine import RawEngine
from workload import ITEMS, queries_of

Rank = Callable[[Sequence[Query]], list[Best]]

BATCH = 32
AT_ONCE = 256
"""Prompts that are submitted together; the engine forms its own batches of them."""


def measure_raw_engine(plan: Plan, serve: ServeConfig) -> list[Row]:
    """Measure vLLM as it comes: every user once, then the same users again."""
    bundle = open_bundle(plan.bundle)
    max_history = bundle.config.models.item_lm.max_history
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    engine = RawEngine(bundle.item_lm(), len(bundle.catalogue()), max_history, serve)
    return _measure(plan, RAW_ENGINE, f"LLMEngine, {_threads(serve)}", engine.rank)


def measure_engine(plan: Plan, serve: ServeConfig) -> list[Row]:
    """Measure one way in which the graph may run it: every user once, then the same users again."""
    bundle = open_bundle(plan.bundle)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    max_history = bundle.config.models.item_lm.max_history
    engine = start_engine(bundle.item_lm(), len(bundle.catalogue()), max_history, serve)
    # vLLM itself chooses the threads of a process of its own
    title = "async" if serve.engine == "async" else f"in_process, {_threads(serve)}"
    try:
        with asyncio.Runner() as runner:
            return _measure(plan, ENGINE, title, lambda batch: runner.run(engine.rank(batch)))
    finally:
        engine.close()


def _threads(serve: ServeConfig) -> str:
    return f"{serve.engine_threads} thread{'s' if serve.engine_threads > 1 else ''}"


def _measure(plan: Plan, group: str, title: str, rank: Rank) -> list[Row]:
    queries = queries_of(open_bundle(plan.bundle), ITEMS)
    rank(queries[:1])  # the first request is slow

    def row(name: str, size: int, seconds: float | None) -> Row:
        run = timed(calls_of(rank, queries, size), size, seconds)
        return row_of(group, f"{title}: {name}", run)

    return [
        row(f"{FIRST_VISIT}, batches of {BATCH}", BATCH, None),
        row(ONE_AT_A_TIME, 1, plan.seconds),
        row(f"batches of {BATCH}", BATCH, plan.seconds),
        row(f"{AT_ONCE} at once", AT_ONCE, plan.seconds),
    ]


def calls_of(rank: Rank, queries: list[Query], size: int) -> list[Callable[[], object]]:
    """Return one call for every `size` users, the last one filled up with the first users."""
    users = len(queries)

    def call(start: int) -> object:
        return rank([queries[row % users] for row in range(start, start + size)])

    return [partial(call, start) for start in range(0, users, size)]
