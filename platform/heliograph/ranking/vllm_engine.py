"""The item LM on vLLM: one prefill scores all candidates of a history.

A prompt is a history's tokens; the next-token log-probabilities of the candidates' tokens are
their scores. Nothing is decoded. Prefix caching makes a returning user cheap.

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
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heliograph.config import ServeConfig

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Scores candidates after prompts."""

    async def score(
        self, prompts: Sequence[list[int]], candidates: Sequence[list[int]]
    ) -> list[NDArray[np.float32]]:
        """Return for each prompt the log-probabilities of its candidate tokens, in their order.

        Args:
            prompts: Tokens, at least one each.
            candidates: For each prompt 1 to 128 tokens.
        """
        ...

    def check(self) -> None:
        """Raise RuntimeError if the engine has died."""
        ...

    def close(self) -> None:
        """Stop the engine; work in progress fails."""
        ...


def start_engine(model: Path, max_history: int, serve: ServeConfig) -> Engine:
    """Load the Hugging Face folder of an item LM into vLLM.

    Args:
        model: Folder with `config.json` and `model.safetensors`.
        max_history: Longest history in items.
        serve: Which way to run, memory and threads.
    """
    in_process = serve.engine == "in_process"
    # read by vLLM when it is first imported
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    arguments = _engine_arguments(model, max_history, serve)
    return InProcessEngine(arguments, serve) if in_process else AsyncEngine(arguments)


@dataclass
class _Batch:
    """Prompts that were handed in together, and the future of their scores."""

    prompts: Sequence[list[int]]
    candidates: Sequence[list[int]]
    done: Future[list[NDArray[np.float32]]]
    scores: dict[int, NDArray[np.float32]] = field(default_factory=dict)


class InProcessEngine:
    """vLLM stepped by one thread: takes batches as they come, between two steps."""

    def __init__(self, arguments: dict[str, Any], serve: ServeConfig) -> None:
        """Load the model; returns when it can score."""
        self._waiting: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._running: dict[str, tuple[_Batch, int]] = {}
        self._ids = itertools.count()
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._work, args=(arguments, serve, started), name="vllm", daemon=True
        )
        self._thread.start()
        started.result()

    async def score(
        self, prompts: Sequence[list[int]], candidates: Sequence[list[int]]
    ) -> list[NDArray[np.float32]]:
        """See `Engine.score`."""
        return await asyncio.wrap_future(self.submit(prompts, candidates))

    def submit(
        self, prompts: Sequence[list[int]], candidates: Sequence[list[int]]
    ) -> Future[list[NDArray[np.float32]]]:
        """Hand a batch in without waiting for it."""
        done: Future[list[NDArray[np.float32]]] = Future()
        if not self._thread.is_alive():
            done.set_exception(RuntimeError("the ranking engine has stopped"))
        elif not prompts:
            done.set_result([])
        else:
            self._waiting.put(_Batch(prompts, candidates, done))
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

            if not torch.cuda.is_available():
                torch.set_num_threads(serve.engine_threads)
            engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
            _warm_up(engine)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while self._take(engine):
                for output in engine.step():
                    if output.finished:
                        self._finish(output)
        except Exception as error:
            logger.exception("the ranking engine died")
            self._fail(error)
        else:
            self._fail(RuntimeError("the ranking engine was closed"))

    def _take(self, engine: Any) -> bool:
        """Add waiting batches to the engine; block while there is nothing to step."""
        while not self._waiting.empty() or not self._running:
            batch = self._waiting.get()
            if batch is None:
                return False
            try:
                self._add(engine, batch)
            except ValueError as error:  # a prompt or candidate that vLLM refuses; others go on
                batch.done.set_exception(error)
        return True

    def _add(self, engine: Any, batch: _Batch) -> None:
        for place, tokens in enumerate(batch.prompts):
            name = str(next(self._ids))
            engine.add_request(name, _engine_input(tokens), _sampling(batch.candidates[place]))
            self._running[name] = (batch, place)

    def _finish(self, output: Any) -> None:
        batch, place = self._running.pop(output.request_id)
        batch.scores[place] = _listed_scores(output, len(batch.candidates[place]))
        if len(batch.scores) == len(batch.prompts) and not batch.done.done():
            batch.done.set_result([batch.scores[place] for place in range(len(batch.prompts))])

    def _fail(self, error: Exception) -> None:
        batches = {id(batch): batch for batch, _ in self._running.values()}
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

    async def score(
        self, prompts: Sequence[list[int]], candidates: Sequence[list[int]]
    ) -> list[NDArray[np.float32]]:
        """See `Engine.score`."""
        pairs = zip(prompts, candidates, strict=True)
        return list(await asyncio.gather(*(self._score_one(*pair) for pair in pairs)))

    async def _score_one(self, tokens: list[int], wanted: list[int]) -> NDArray[np.float32]:
        name = str(next(self._ids))
        async for output in self._engine.generate(_engine_input(tokens), _sampling(wanted), name):
            if output.finished:
                return _listed_scores(output, len(wanted))
        raise RuntimeError("the ranking engine ended a request without an answer")

    def check(self) -> None:
        """See `Engine.check`."""
        if self._engine.errored:
            raise RuntimeError("the ranking engine has stopped") from self._engine.dead_error

    def close(self) -> None:
        """Shut the engine's process down."""
        self._engine.shutdown()


def _engine_arguments(model: Path, max_history: int, serve: ServeConfig) -> dict[str, Any]:
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
    }


def _warm_up(engine: Any) -> None:
    """Score once: the first request is slow, and a model that vLLM cannot run fails here."""
    engine.add_request("warm-up", _engine_input([0]), _sampling([0]))
    while engine.has_unfinished_requests():
        engine.step()


def _engine_input(tokens: list[int]) -> Any:
    from vllm.inputs import tokens_input

    return tokens_input(prompt_token_ids=tokens)


def _sampling(wanted: list[int]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprob_token_ids=wanted,
        detokenize=False,
        flat_logprobs=True,
        skip_clone=True,  # made for this request alone
    )


def _listed_scores(output: Any, count: int) -> NDArray[np.float32]:
    """Read the listed tokens' log-probabilities; the sampled token's stands before them."""
    return np.array(output.outputs[0].logprobs.logprobs[1 : count + 1], np.float32)
