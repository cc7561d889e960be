"""The item LM on vLLM: one prefill ranks the whole catalogue after a history.

A prompt is a history's tokens. Evidence is added inside the sampler (`evidence_sampler`), and the
most likely next tokens are the final ranking; one token is decoded and thrown away. Prefix caching
makes a returning user cheap.

Two ways to run the same engine, chosen by `serve.engine`: stepped by a thread of this process
(no hop to another process: best for small models), or `AsyncLLM` in a process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heliograph.config import ServeConfig
from heliograph.models.item_tokens import BOS, vocabulary_size
from heliograph.ranking.engine_items import ItemTokens, with_room

MAX_K = 1000
"""Tokens that a query can have back."""

CLOSED = -1e30
"""Log-probabilities below this are of tokens that were closed."""

RESET_AGAIN_S = 0.01
"""Time until a prefix cache that is in use is tried again."""

STEPPING = threading.Lock()
"""vLLM keeps what a forward pass works on in a variable of a module, so the engines of one process
step in turns."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """One history to rank the catalogue after."""

    prompt: list[int]
    """Tokens, at least one."""

    tokens: NDArray[np.int64]
    """(tokens,) those whose logits change."""

    added: NDArray[np.float32]
    """(tokens,) what is added to them; -inf closes one."""

    closed: bool
    """Whether all other tokens are closed."""

    k: int
    """Tokens to return, at most `MAX_K` and no more than there are items."""


@dataclass(frozen=True)
class Best:
    """The most likely next tokens, best first."""

    tokens: NDArray[np.int32]
    """(k,), fewer where fewer are open."""

    log_probabilities: NDArray[np.float32]
    """(k,)"""

    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, how many the engine still knew."""


class Engine(Protocol):
    """Ranks the catalogue after prompts."""

    async def take_up(self, items: ItemTokens) -> None:
        """Rank with other items from now on."""
        ...

    async def rank(self, queries: Sequence[Query]) -> list[Best]:
        """Return the best next tokens of each query."""
        ...

    def check(self) -> None:
        """Raise RuntimeError if the engine has died."""
        ...

    def close(self) -> None:
        """Stop the engine; work in progress fails."""
        ...


def start_engine(model: Path, n_items: int, max_history: int, serve: ServeConfig) -> Engine:
    """Load the Hugging Face folder of an item LM into vLLM.

    Args:
        model: Folder with `config.json` and `model.safetensors`.
        n_items: Items of the catalogue.
        max_history: Longest history in items.
        serve: Which way to run, memory and threads.
    """
    in_process = serve.engine == "in_process"
    # read by vLLM and torch when they are first imported
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"
    # the model is not compiled, but helpers of the sampler would be: two seconds of every start
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    with with_room(model, vocabulary_size(n_items, serve.room_for_items)) as lent:
        arguments = _engine_arguments(lent, n_items, max_history, serve)
        return InProcessEngine(arguments, serve) if in_process else AsyncEngine(arguments)


@dataclass
class _Task:
    """What the engine's thread is to do while no query is on its way."""

    work: Callable[[Any], None]
    done: Future[None]


@dataclass
class _Batch:
    """Queries that were handed in together, and the future of their answers."""

    queries: Sequence[Query]
    done: Future[list[Best]]
    answers: dict[int, Best] = field(default_factory=dict)


class InProcessEngine:
    """vLLM stepped by one thread: takes batches as they come, between two steps."""

    def __init__(self, arguments: dict[str, Any], serve: ServeConfig) -> None:
        """Load the model; returns when it can score."""
        self._waiting: queue.SimpleQueue[_Batch | _Task | None] = queue.SimpleQueue()
        self._running: dict[str, tuple[_Batch, int]] = {}
        self._ids = itertools.count()
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._work, args=(arguments, serve, started), name="vllm", daemon=True
        )
        self._thread.start()
        started.result()

    async def take_up(self, items: ItemTokens) -> None:
        """See `Engine.take_up`."""

        def work(engine: Any) -> None:
            engine.collective_rpc("take_up_items", args=items.packed())
            if items.is_stale:
                engine.reset_prefix_cache()

        self.check()
        task = _Task(work, Future())
        self._waiting.put(task)
        await asyncio.wrap_future(task.done)

    async def rank(self, queries: Sequence[Query]) -> list[Best]:
        """See `Engine.rank`."""
        return await asyncio.wrap_future(self.submit(queries))

    def submit(self, queries: Sequence[Query]) -> Future[list[Best]]:
        """Hand a batch in without waiting for it."""
        done: Future[list[Best]] = Future()
        if not self._thread.is_alive():
            done.set_exception(RuntimeError("the ranking engine has stopped"))
        elif not queries:
            done.set_result([])
        else:
            self._waiting.put(_Batch(queries, done))
        return done

    def check(self) -> None:
        """See `Engine.check`."""
        if not self._thread.is_alive():
            raise RuntimeError("the ranking engine has stopped")

    def close(self) -> None:
        """Stop the thread after the step it is in."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self, arguments: dict[str, Any], serve: ServeConfig, started: Future[None]) -> None:
        try:
            import torch
            from vllm import EngineArgs, LLMEngine

            on_cpu = not torch.cuda.is_available()
            if on_cpu and torch.get_num_threads() != serve.engine_threads:
                torch.set_num_threads(serve.engine_threads)
            # without a GPU nothing is profiled while an engine is made: others may go on stepping
            with nullcontext() if on_cpu else STEPPING:
                engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
            _warm_up(engine)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while self._take(engine):
                self._step(engine)
        except Exception as error:
            logger.exception("the ranking engine died")
            self._fail(error)
        else:
            self._fail(RuntimeError("the ranking engine was closed"))
            engine.collective_rpc(_release)

    def _take(self, engine: Any) -> bool:
        """Add waiting batches to the engine; block while there is nothing to step."""
        while not self._waiting.empty() or not self._running:
            batch = self._waiting.get()
            if batch is None:
                return False
            if isinstance(batch, _Task):
                self._do(engine, batch)
                continue
            try:
                self._add(engine, batch)
            except ValueError as error:  # a query that vLLM refuses; others go on
                batch.done.set_exception(error)
        return True

    def _do(self, engine: Any, task: _Task) -> None:
        while self._running:  # what is on its way has read the old embeddings
            self._step(engine)
        try:
            task.work(engine)
        except Exception as error:
            task.done.set_exception(error)
        else:
            task.done.set_result(None)

    def _step(self, engine: Any) -> None:
        for output in _step(engine):
            if output.finished:
                self._finish(output)

    def _add(self, engine: Any, batch: _Batch) -> None:
        for place, query in enumerate(batch.queries):
            name = str(next(self._ids))
            engine.add_request(name, _engine_input(query.prompt), _sampling(query))
            self._running[name] = (batch, place)

    def _finish(self, output: Any) -> None:
        batch, place = self._running.pop(output.request_id)
        batch.answers[place] = _best(output, batch.queries[place].k)
        if len(batch.answers) == len(batch.queries) and not batch.done.done():
            batch.done.set_result([batch.answers[place] for place in range(len(batch.queries))])

    def _fail(self, error: Exception) -> None:
        batches: dict[int, _Batch | _Task] = {
            id(batch): batch for batch, _ in self._running.values()
        }
        while not self._waiting.empty():
            if (batch := self._waiting.get()) is not None:
                batches[id(batch)] = batch
        for batch in batches.values():
            if not batch.done.done():
                batch.done.set_exception(error)


class AsyncEngine:
    """vLLM's own asynchronous engine, which runs the model in another process."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        """Load the model; returns when it can score."""
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._ids = itertools.count()

    async def take_up(self, items: ItemTokens) -> None:
        """See `Engine.take_up`."""
        await self._engine.collective_rpc("take_up_items", args=items.packed())
        # refused while queries are on their way: these have the old embeddings in the cache
        while items.is_stale and not await self._engine.reset_prefix_cache():
            await asyncio.sleep(RESET_AGAIN_S)

    async def rank(self, queries: Sequence[Query]) -> list[Best]:
        """See `Engine.rank`."""
        return list(await asyncio.gather(*(self._rank_one(query) for query in queries)))

    async def _rank_one(self, query: Query) -> Best:
        name = str(next(self._ids))
        prompt = _engine_input(query.prompt)
        async for output in self._engine.generate(prompt, _sampling(query), name):
            if output.finished:
                return _best(output, query.k)
        raise RuntimeError("the ranking engine ended a request without an answer")

    def check(self) -> None:
        """See `Engine.check`."""
        if self._engine.errored:
            raise RuntimeError("the ranking engine has stopped") from self._engine.dead_error

    def close(self) -> None:
        """Shut the engine's process down."""
        self._engine.shutdown()


def _engine_arguments(
    model: Path, n_items: int, max_history: int, serve: ServeConfig
) -> dict[str, Any]:
    from heliograph.ranking.engine_worker import ItemWorker  # these import vLLM
    from heliograph.ranking.evidence_sampler import N_ITEMS, EvidenceSampler

    return {
        "model": str(model),
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "enforce_eager": True,  # compiling costs 20 s of start and buys nothing at this size
        "max_model_len": max_history + 2,  # BOS before, one new token behind
        "max_num_seqs": 2 * serve.max_batch_size,
        "max_num_batched_tokens": max(8192, max_history + 2),
        "kv_cache_memory_bytes": serve.kv_cache_mb << 20,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "distributed_executor_backend": "uni",
        "logits_processors": [f"{EvidenceSampler.__module__}:{EvidenceSampler.__qualname__}"],
        "logprobs_mode": "processed_logprobs",
        # more than there are tokens would kill the engine
        "max_logprobs": min(MAX_K, n_items + serve.room_for_items),
        "worker_extension_cls": f"{ItemWorker.__module__}.{ItemWorker.__qualname__}",
        "additional_config": {N_ITEMS: n_items},
    }


def _warm_up(engine: Any) -> None:
    """Rank once: the first request is slow, and a model that vLLM cannot run fails here."""
    nothing = Query([BOS], np.zeros(0, np.int64), np.zeros(0, np.float32), closed=False, k=1)
    engine.add_request("warm-up", _engine_input(nothing.prompt), _sampling(nothing))
    while engine.has_unfinished_requests():
        _step(engine)


def _step(engine: Any) -> Any:
    with STEPPING:
        return engine.step()


def _release(worker: Any) -> None:
    """Give the memory of a closed engine back.

    vLLM's own shutdown would end what all engines of the process share, and the objects that it
    has frozen are never collected: so the tensors are emptied where they are.
    """
    for tensor in [*worker.model_runner.kv_caches, *worker.get_model().parameters()]:
        tensor.untyped_storage().resize_(0)


def _engine_input(tokens: list[int]) -> Any:
    from vllm.inputs import tokens_input

    return tokens_input(prompt_token_ids=tokens)


def _sampling(query: Query) -> Any:
    from vllm import SamplingParams

    from heliograph.ranking.evidence_sampler import bias_arguments

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprobs=query.k,
        detokenize=False,
        flat_logprobs=True,
        skip_clone=True,  # made for this request alone
        extra_args=bias_arguments(query.tokens, query.added, query.closed),
    )


def _best(output: Any, k: int) -> Best:
    """Read the best tokens; the sampled one, which is the best, stands before them once more."""
    listed = output.outputs[0].logprobs
    tokens = np.array(listed.token_ids[1 : k + 1], np.int32)
    log_probabilities = np.array(listed.logprobs[1 : k + 1], np.float32)
    is_open = log_probabilities > CLOSED
    return Best(
        tokens[is_open],
        log_probabilities[is_open],
        prompt_tokens=len(output.prompt_token_ids),
        cached_tokens=output.num_cached_tokens or 0,
    )
