"""Which replica answers whom, with real coroutines and no Ray."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heliograph_serve.crew import Answers
from heliograph_serve.item_follower import Edition
from heliograph_serve.lanes import BEGINNING, LANES, UNKNOWN, Lanes, lane_of
from heliograph_serve.stage import Stage

WAIT_S = 5.0


class Replicas:
    """A deployment whose router sends each lane to one replica; the ring can change."""

    def __init__(self, replica_of: Callable[[int], str]) -> None:
        self.replica_of = replica_of
        self.batches: list[tuple[str, list[int]]] = []

    def lanes(self) -> Lanes[int, int]:
        """Return the calls of an ingress that has just started; a query is its own lane."""

        def call_of(lane: int) -> Callable[[Edition, Sequence[int]], asyncio.Future[Answers[int]]]:
            return lambda bundle, batch: asyncio.ensure_future(self._answer(lane, batch))

        ticks = iter(range(1_000_000))
        calls = [call_of(lane) for lane in range(LANES)]
        return Lanes(calls, lambda query: query % LANES, lambda: float(next(ticks)))

    async def _answer(self, lane: int, batch: Sequence[int]) -> Answers[int]:
        replica = self.replica_of(lane)
        self.batches.append((replica, list(batch)))
        await asyncio.sleep(0)
        return Answers([-query for query in batch], replica)


async def visits(lanes: Lanes[int, int], rounds: int) -> None:
    """Let everybody ask so many times, all at once, and check the answers."""

    async def send(batch: Sequence[int]) -> Sequence[int]:
        return await lanes.ask(Edition("bundle", 0), batch)

    stage: Stage[int, int] = Stage("rank", send, 64, queue_of=lanes.queue_of)
    for _ in range(rounds):
        asked = [stage.ask(user, WAIT_S) for user in range(LANES)]
        assert await asyncio.gather(*asked) == [-user for user in range(LANES)]


def misled(replicas: Replicas, batches: list[tuple[str, list[int]]]) -> int:
    """Count queries that went to another replica than that of their lane."""
    return sum(replicas.replica_of(user) != name for name, batch in batches for user in batch)


def test_everybody_comes_to_the_replica_of_their_lane_once_it_is_known() -> None:
    async def scenario() -> None:
        replicas = Replicas(lambda lane: "ab"[lane % 2])
        lanes = replicas.lanes()
        await visits(lanes, LANES)
        replicas.batches.clear()
        await visits(lanes, 3)
        assert misled(replicas, replicas.batches) == 0
        assert Counter(name for name, _ in replicas.batches) == {"a": 3, "b": 3}

    asyncio.run(scenario())


def test_lanes_are_learnt_anew_when_replicas_change() -> None:
    async def scenario() -> None:
        replicas = Replicas(lambda lane: "a")
        lanes = replicas.lanes()
        await visits(lanes, LANES)
        replicas.replica_of = lambda lane: "abc"[lane % 3]
        await visits(lanes, 2 * LANES)
        replicas.batches.clear()
        await visits(lanes, 2)
        assert misled(replicas, replicas.batches) == 0

    asyncio.run(scenario())


def test_of_a_lane_that_nobody_has_asked_the_replica_is_unknown() -> None:
    assert Replicas(lambda lane: "a").lanes().queue_of(5) == UNKNOWN


@given(st.lists(st.integers(0, 10_000), max_size=40), st.lists(st.integers(0, 10_000)))
def test_a_history_keeps_its_lane_as_it_grows(history: list[int], more: list[int]) -> None:
    grown = np.array(history + more, np.int32)
    lane = lane_of(np.array(history, np.int32))
    assert 0 <= lane < LANES
    if len(history) >= BEGINNING:
        assert lane_of(grown) == lane


def test_histories_are_spread_over_the_lanes() -> None:
    rng = np.random.default_rng(1)
    lanes = Counter(lane_of(rng.integers(0, 1000, 20).astype(np.int32)) for _ in range(6400))
    assert len(lanes) == LANES
    assert max(lanes.values()) < 200
