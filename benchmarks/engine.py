"""vLLM alone: the prompts and candidates of the graph, without Ray and HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial

from figures import Plan, Row, repeat, timed
from heliograph.bundle import open_bundle
from heliograph.config import ServeConfig
from heliograph.ranking.vllm_engine import Engine, Query, start_engine
from ratios import ENGINE, FIRST_VISIT, ONE_AT_A_TIME
from workload import ITEMS, queries_of

BATCH = 32
AT_ONCE = 256
"""Prompts that are submitted together; the engine forms its own batches of them."""


def measure_engine(plan: Plan, serve: ServeConfig) -> list[Row]:
    """Measure one way to run the engine: every user once, then the same users again."""
    bundle = open_bundle(plan.bundle)
    queries = queries_of(bundle, ITEMS)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    max_history = bundle.config.models.item_lm.max_history
    engine = start_engine(bundle.item_lm(), len(bundle.catalogue()), max_history, serve)
    try:
        with asyncio.Runner() as runner:
            runner.run(engine.rank(queries[:1]))  # the first request is slow
            return _measure(plan, _title(serve), partial(_calls, runner, engine, queries))
    finally:
        engine.close()


def _title(serve: ServeConfig) -> str:
    if serve.engine == "async":
        return "async"  # vLLM itself chooses the threads of that process
    return f"in_process, {serve.engine_threads} thread{'s' if serve.engine_threads > 1 else ''}"


def _measure(
    plan: Plan, title: str, calls: Callable[[int], list[Callable[[], object]]]
) -> list[Row]:
    def row(name: str, size: int, seconds: float | None, times: int) -> Row:
        once = partial(timed, calls(size), size, seconds)
        return repeat(ENGINE, f"{title}: {name}", times, once)

    return [
        row(f"{FIRST_VISIT}, batches of {BATCH}", BATCH, None, times=1),
        row(ONE_AT_A_TIME, 1, plan.seconds, plan.repeats),
        row(f"batches of {BATCH}", BATCH, plan.seconds, plan.repeats),
        row(f"{AT_ONCE} at once", AT_ONCE, plan.seconds, plan.repeats),
    ]


def _calls(
    runner: asyncio.Runner, engine: Engine, queries: list[Query], size: int
) -> list[Callable[[], object]]:
    """Return one call for every `size` users, the last one filled up with the first users."""
    users = len(queries)

    def call(start: int) -> object:
        chosen = [queries[row % users] for row in range(start, start + size)]
        return runner.run(engine.rank(chosen))

    return [partial(call, start) for start in range(0, users, size)]
