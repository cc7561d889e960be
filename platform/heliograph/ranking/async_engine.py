"""vLLM's own asynchronous engine, which runs the model in another process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from heliograph.ranking.engine import Best, Limits, Query, best_of
from heliograph.ranking.engine_items import ItemTokens

RESET_AGAIN_S = 0.01
"""Time until a prefix cache that is in use is tried again."""


class AsyncEngine:
    """Ranks by `AsyncLLM`."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        """Load the model; returns when it can score."""
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._limits = Limits.of(self._engine.model_config)
        self._ids = itertools.count()

    async def take_up(self, items: ItemTokens) -> None:
        """See `Engine.take_up`."""
        await self._engine.collective_rpc("take_up_items", args=items.packed())
        # refused while queries are on their way: these have the old embeddings in the cache
        while items.is_stale and not await self._engine.reset_prefix_cache():
            await asyncio.sleep(RESET_AGAIN_S)

    async def rank(self, queries: Sequence[Query]) -> list[Best]:
        """See `Engine.rank`."""
        for query in queries:
            self._limits.check(query)
        return list(await asyncio.gather(*(self._rank_one(query) for query in queries)))

    async def _rank_one(self, query: Query) -> Best:
        from vllm.inputs import tokens_input

        from heliograph.ranking.evidence_sampler import sampling

        name = str(next(self._ids))
        prompt = tokens_input(prompt_token_ids=query.prompt)
        async for output in self._engine.generate(prompt, sampling(query), name):
            if output.finished:
                return best_in(output, query.k)
        raise RuntimeError("the ranking engine ended a request without an answer")

    def check(self) -> None:
        """See `Engine.check`."""
        if self._engine.errored:
            raise RuntimeError("the ranking engine has stopped") from self._engine.dead_error

    def close(self) -> None:
        """Shut the engine's process down."""
        self._engine.shutdown()


def best_in(output: Any, k: int) -> Best:
    """Read the best tokens; the sampled one, which is the best, stands before them once more.

    Args:
        output: vLLM's `RequestOutput`, finished.
        k: Tokens that the query asked for.
    """
    listed = output.outputs[0].logprobs
    return best_of(
        np.array(listed.token_ids[1 : k + 1], np.int32),
        np.array(listed.logprobs[1 : k + 1], np.float32),
        prompt_tokens=len(output.prompt_token_ids),
        cached_tokens=output.num_cached_tokens or 0,
    )
