"""A call to another deployment, as the ingress makes it: in batches, with a fuse.

Requests that come in while a batch is away travel together in the next one, so a batch grows
with the load and a single request never waits, unless the stage is told to wait for others.
(`serve.batch` forms its batches by a timer and before the last one is back, so under load they stay
small.) The next batch leaves before the answers of the last are handed out: the stage works while
this process writes them. Requests that arrive at the same turn of the event loop travel together
too, also where `send` answers at once.

A few queries are longer on their way than at work. Where requests would wait for that in turn, two
clients would get no more answers a second than one; so while there is little to do, another batch
leaves beside the one that is away.

A stage that keeps failing is left alone for a moment instead of costing every request its
deadline; then one request tries it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from heliograph_serve.batch_context import of_no_request

Query = TypeVar("Query")
Answer = TypeVar("Answer")

FAILURES_TO_OPEN = 3
"""Failed batches in a row after which the stage is left alone."""

PAUSE_S = 0.5
"""Time until a stage that was left alone is tried again."""

BATCH_TIMEOUT_S = 5.0
"""A batch that is away for longer counts as failed; requests have given up long before."""

TURNS_OUT = 8
"""Of the event loop, in which the next batch gets on its way. An answer of the last one is handed
out in each: all at once would keep the replica waiting, since each has its request go on."""

ANSWERS_A_TURN = 4
"""Handed out after that; a turn for each would cost the ingress some percent of its time."""

STUCK_S = 0.5
"""A request that gives up counts as a failure of the stage only if a batch is away for longer, or
for twice as long where it left beside another one; else its own deadline was short."""

logger = logging.getLogger("ray.serve")


class StageUnavailable(RuntimeError):
    """The stage did not answer; the caller goes on without it."""


class _Waiting(NamedTuple, Generic[Query, Answer]):
    """A query that has not left yet."""

    query: Query
    done: asyncio.Future[Answer]
    since: float


@dataclass
class _Queue(Generic[Query, Answer]):
    """Queries that travel together, and what is away of them."""

    waiting: deque[_Waiting[Query, Answer]] = field(default_factory=deque)
    away: dict[asyncio.Task[None], float] = field(default_factory=dict)
    """From when on each batch counts as stuck."""

    aboard: int = 0
    """Queries of the batches that are away."""

    boarding: int = 0
    """Batches among those away that have not taken their queries yet."""

    alarm: asyncio.TimerHandle | None = None
    """Rings when a batch that is not full has waited long enough."""


class Stage(Generic[Query, Answer]):
    """Sends queries to a deployment and hands the answers back."""

    def __init__(
        self,
        name: str,
        send: Callable[[Sequence[Query]], Awaitable[Sequence[Answer]]],
        max_batch_size: int,
        max_away: Callable[[], int] = lambda: 1,
        queue_of: Callable[[Query], str] = lambda query: "",
        wait_s: float = 0.0,
        at_once: Callable[[Query], Answer | None] = lambda query: None,
        is_calm: Callable[[], bool] | None = None,
    ) -> None:
        """Call the deployment through `send`, which answers queries in their order.

        A query to which `at_once` has an answer does not travel.

        Queries of one queue travel together, and at most `max_away` of its batches are away at
        once. For one replica that is one: a step of the ranking engine and a call have a large
        fixed cost, so fewer and larger batches give more requests a second than overlapping ones.
        With `is_calm`, twice as many may be where that makes none of them smaller for long: a full
        batch leaves beside another one, so that the replica finds its next work waiting, and while
        `is_calm` says that there is little to do any batch does. A batch that is not full leaves
        when its first query has waited for `wait_s`.
        """
        self.name = name
        self._send = send
        self._max_batch_size = max_batch_size
        self._max_away = max_away
        self._queue_of = queue_of
        self._wait_s = wait_s
        self._at_once = at_once
        self._is_calm = is_calm
        self._queues: defaultdict[str, _Queue[Query, Answer]] = defaultdict(_Queue)
        self._failures = 0
        self._retry_at = 0.0
        self.batches = 0
        self.queries = 0

    @property
    def waiting(self) -> int:
        """Return how many queries wait for a batch that is away."""
        queues = list(self._queues.values())  # a thread that exports metrics asks too
        return sum(len(queue.waiting) for queue in queues)

    @property
    def under_way(self) -> int:
        """Return how many queries wait or are away."""
        return self.waiting + sum(queue.aboard for queue in list(self._queues.values()))

    @property
    def is_open(self) -> bool:
        """Whether the stage is left alone because it kept failing."""
        return self._failures >= FAILURES_TO_OPEN

    async def ask(self, query: Query, timeout_s: float) -> Answer:
        """Return the answer to one query.

        Raises:
            StageUnavailable: No answer within the time, or the stage is failing.
        """
        now = time.monotonic()
        if self.is_open:
            if now < self._retry_at:
                raise StageUnavailable(f"{self.name} is failing")
            self._retry_at = now + PAUSE_S  # this request is the one that tries
        if timeout_s <= 0:
            raise StageUnavailable(f"there is no time left for {self.name}")
        if (answer := self._answered(query)) is not None:
            return answer
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        name = self._queue_of(query)
        self._queues[name].waiting.append(_Waiting(query, done, now))
        self._depart(name)
        # a timer of our own costs a request less than `wait_for`
        timer = done.get_loop().call_later(timeout_s, _give_up, done)
        try:
            return await done
        except TimeoutError:
            if self._is_stuck(name):
                self._failed(f"no answer within {timeout_s * 1000:.0f} ms")
            raise StageUnavailable(f"{self.name} did not answer in time") from None
        finally:
            timer.cancel()

    def _answered(self, query: Query) -> Answer | None:
        try:
            answer = self._at_once(query)
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
            raise StageUnavailable(f"{self.name} failed") from error
        if answer is not None:
            self._failures = 0
            self.batches += 1
            self.queries += 1
        return answer

    def _is_stuck(self, name: str) -> bool:
        queue = self._queues.get(name)
        return queue is not None and any(
            time.monotonic() > stuck_at for stuck_at in queue.away.values()
        )

    def _depart(self, name: str) -> None:
        """Let as many batches of a queue leave as there is room and need for."""
        queue = self._queues[name]
        while len(queue.waiting) > self._boarded(queue) and self._has_room(queue):
            loop = asyncio.get_running_loop()
            if self._wait_s and (left_s := self._patience_s(queue)) > 0:
                if queue.alarm is None:
                    queue.alarm = loop.call_later(left_s, self._ring, name)
                return
            shares = 1 if len(queue.away) < self._max_away() else 2
            carrying = loop.create_task(self._carry(name), context=of_no_request())
            queue.away[carrying] = time.monotonic() + shares * STUCK_S
            queue.boarding += 1

    def _has_room(self, queue: _Queue[Query, Answer]) -> bool:
        at_work, away = self._max_away(), len(queue.away)
        if away < at_work:
            return True
        if self._is_calm is None or away >= 2 * at_work:
            return False
        return self._is_full(queue) or (not queue.boarding and self._is_calm())

    def _boarded(self, queue: _Queue[Query, Answer]) -> int:
        """Return how many of those that wait the batches that are boarding will take."""
        return queue.boarding * self._max_batch_size

    def _is_full(self, queue: _Queue[Query, Answer]) -> bool:
        """Whether the next batch would be."""
        return len(queue.waiting) - self._boarded(queue) >= self._max_batch_size

    def _patience_s(self, queue: _Queue[Query, Answer]) -> float:
        """Return how much longer the next batch waits for more queries."""
        if self._is_full(queue):
            return 0.0
        return queue.waiting[self._boarded(queue)].since + self._wait_s - time.monotonic()

    def _ring(self, name: str) -> None:
        self._queues[name].alarm = None
        self._depart(name)
        self._forget_if_idle(name)

    def _board(self, queue: _Queue[Query, Answer]) -> list[_Waiting[Query, Answer]]:
        queue.boarding -= 1
        count = min(len(queue.waiting), self._max_batch_size)
        taken = [queue.waiting.popleft() for _ in range(count)]
        batch = [one for one in taken if not one.done.done()]  # others gave up
        queue.aboard += len(batch)
        return batch

    async def _carry(self, name: str) -> None:
        batch = self._board(self._queues[name])
        try:
            if not batch:
                return
            self.batches += 1
            self.queries += len(batch)
            async with asyncio.timeout(BATCH_TIMEOUT_S):
                answers = await self._send([one.query for one in batch])
        except Exception as error:  # whatever failed there, requests go on without this stage
            self._failed(f"{type(error).__name__}: {error}")
            for one in batch:
                if not one.done.done():
                    one.done.set_exception(StageUnavailable(f"{self.name} failed"))
            return
        finally:
            self._arrived(name, len(batch))
        self._failures = 0
        for place, (one, answer) in enumerate(zip(batch, answers, strict=True)):
            with contextlib.suppress(asyncio.InvalidStateError):  # the request gave up meanwhile
                one.done.set_result(answer)
            if place < TURNS_OUT or place % ANSWERS_A_TURN == 0:
                await asyncio.sleep(0)

    def _arrived(self, name: str, count: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        queue = self._queues[name]
        del queue.away[task]
        queue.aboard -= count
        self._depart(name)
        self._forget_if_idle(name)

    def _forget_if_idle(self, name: str) -> None:
        queue = self._queues[name]
        if not queue.away and not queue.waiting and queue.alarm is None:
            del self._queues[name]  # replicas come and go

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if self._failures == FAILURES_TO_OPEN:
            self._retry_at = time.monotonic() + PAUSE_S
            logger.warning("%s keeps failing (%s): answering without it", self.name, reason)


def _give_up(done: asyncio.Future[Answer]) -> None:
    if not done.done():
        done.set_exception(TimeoutError())
