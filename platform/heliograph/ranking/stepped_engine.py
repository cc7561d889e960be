"""vLLM stepped by a thread of this process.

Queries go to vLLM's engine core. `LLMEngine`, which stands before it, is made for texts: it renders
prompts, completes parameters by those of a tokenizer, and turns tokens into words again. For a
model this small that would be a good part of a request's time, and a ranking needs nothing of it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heliograph.models.item_tokens import BOS
from heliograph.ranking.engine import Best, Limits, Query, best_of
from heliograph.ranking.engine_items import ItemTokens

STEPPING = threading.Lock()
"""vLLM keeps what a forward pass works on in a variable of a module, so the engines of one process
step in turns."""

logger = logging.getLogger(__name__)


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


class SteppedEngine:
    """Takes batches as they come, between two steps."""

    def __init__(self, arguments: dict[str, Any], threads: int) -> None:
        """Load the model; returns when it can score."""
        self._waiting: queue.SimpleQueue[_Batch | _Task | None] = queue.SimpleQueue()
        self._running: dict[str, tuple[_Batch, int]] = {}
        self._ids = itertools.count()
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._work, args=(arguments, threads, started), name="vllm", daemon=True
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

    def _work(self, arguments: dict[str, Any], threads: int, started: Future[None]) -> None:
        try:
            engine = _load(arguments, threads)
            core = _Core(engine)
            self._rank_nothing(core)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while self._take(core):
                self._step(core)
        except Exception as error:
            logger.exception("the ranking engine died")
            self._fail(error)
        else:
            self._fail(RuntimeError("the ranking engine was closed"))
            engine.collective_rpc(_release)

    def _rank_nothing(self, core: _Core) -> None:
        """Rank once: the first request is slow, and a model that vLLM cannot run fails here."""
        nothing = Query([BOS], np.zeros(0, np.int64), np.zeros(0, np.float32), closed=False, k=1)
        self._add(core, _Batch([nothing], Future()))
        while self._running:
            self._step(core)

    def _take(self, core: _Core) -> bool:
        """Add waiting batches to the engine; block while there is nothing to step."""
        while not self._waiting.empty() or not self._running:
            batch = self._waiting.get()
            if batch is None:
                return False
            if isinstance(batch, _Task):
                self._do(core, batch)
            else:
                self._add(core, batch)
        return True

    def _do(self, core: _Core, task: _Task) -> None:
        if not task.done.set_running_or_notify_cancel():  # from here on nobody can call it off
            return
        while self._running:  # what is on its way has read the old embeddings
            self._step(core)
        try:
            task.work(core.engine)
        except Exception as error:
            task.done.set_exception(error)
        else:
            task.done.set_result(None)

    def _add(self, core: _Core, batch: _Batch) -> None:
        if not batch.done.set_running_or_notify_cancel():
            return
        try:
            for query in batch.queries:
                core.limits.check(query)
        except ValueError as error:
            batch.done.set_exception(error)
            return
        for place, query in enumerate(batch.queries):
            name = str(next(self._ids))
            core.add(name, query)
            self._running[name] = (batch, place)

    def _step(self, core: _Core) -> None:
        for output in core.step():
            if output.finished:
                self._finish(output)

    def _finish(self, output: Any) -> None:
        batch, place = self._running.pop(output.request_id)
        batch.answers[place] = _best(output, batch.queries[place])
        if len(batch.answers) == len(batch.queries):
            batch.done.set_result([batch.answers[place] for place in range(len(batch.queries))])

    def _fail(self, error: Exception) -> None:
        batches: dict[int, _Batch | _Task] = {
            id(batch): batch for batch, _ in self._running.values()
        }
        while not self._waiting.empty():
            if (batch := self._waiting.get()) is not None:
                batches[id(batch)] = batch
        for batch in batches.values():
            if batch.done.running() or batch.done.set_running_or_notify_cancel():
                batch.done.set_exception(error)


class _Core:
    """vLLM's engine core, given and giving what a ranking needs."""

    def __init__(self, engine: Any) -> None:
        from vllm.v1.engine import EngineCoreRequest

        from heliograph.ranking.evidence_sampler import sampling

        self.engine = engine
        self._core = engine.engine_core
        self._request = EngineCoreRequest
        self._sampling = sampling
        self.limits = Limits.of(engine.model_config)

    def add(self, name: str, query: Query) -> None:
        """Let a query take part from the next step on."""
        self._core.add_request(
            self._request(
                request_id=name,
                prompt_token_ids=query.prompt,
                mm_features=None,
                sampling_params=self._sampling(query),
                pooling_params=None,
                arrival_time=0.0,  # all have the same priority, so none is before another
                lora_request=None,
                cache_salt=None,
                data_parallel_rank=None,
            )
        )

    def step(self) -> list[Any]:
        """Run the model once; returns what it came to, of queries that ended and others."""
        with STEPPING:
            return list(self._core.get_output().outputs)


def _load(arguments: dict[str, Any], threads: int) -> Any:
    import torch
    from vllm import EngineArgs, LLMEngine

    on_cpu = not torch.cuda.is_available()
    if on_cpu and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    # without a GPU nothing is profiled while an engine is made: others may go on stepping
    with nullcontext() if on_cpu else STEPPING:
        return LLMEngine.from_engine_args(EngineArgs(**arguments))


def _release(worker: Any) -> None:
    """Give the memory of a closed engine back.

    vLLM's own shutdown would end what all engines of the process share, and the objects that it
    has frozen are never collected: so the tensors are emptied where they are.
    """
    for tensor in [*worker.model_runner.kv_caches, *worker.get_model().parameters()]:
        tensor.untyped_storage().resize_(0)


def _best(output: Any, query: Query) -> Best:
    """Read the best tokens; the sampled one, which is the best, stands before them once more."""
    found = output.new_logprobs
    return best_of(
        found.logprob_token_ids[0, 1 : query.k + 1],
        found.logprobs[0, 1 : query.k + 1],
        prompt_tokens=len(query.prompt),
        cached_tokens=output.prefill_stats.num_cached_tokens,
    )
