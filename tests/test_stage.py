"""Batching and the fuse of a call to another deployment, with real coroutines and no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from heliograph_serve import stage as module
from heliograph_serve.stage import FAILURES_TO_OPEN, Stage, StageUnavailable

WAIT_S = 5.0


class Doubler:
    """A deployment that doubles numbers; it can be held back and made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    async def send(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.gate.wait()
        if self.broken:
            raise RuntimeError("broken")
        return [2 * number for number in numbers]


def test_one_request_travels_at_once_and_alone() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        stage = Stage("double", doubler.send, max_batch_size=4)
        assert await stage.ask(21, WAIT_S) == 42
        assert doubler.batches == [[21]]

    asyncio.run(scenario())


def test_what_can_be_answered_at_once_does_not_travel() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        known = {1: 100}
        stage = Stage("double", doubler.send, max_batch_size=4, at_once=known.get)
        asked = [stage.ask(number, WAIT_S) for number in (1, 2)]
        assert await asyncio.gather(*asked) == [100, 4]
        assert doubler.batches == [[2]]
        assert (stage.batches, stage.queries) == (2, 2)

    asyncio.run(scenario())


def test_a_stage_that_keeps_failing_at_once_is_left_alone_too() -> None:
    async def scenario() -> None:
        asked: list[int] = []

        def broken(number: int) -> int:
            asked.append(number)
            raise RuntimeError("broken")

        stage = Stage("double", Doubler().send, max_batch_size=4, at_once=broken)
        for number in range(FAILURES_TO_OPEN + 2):
            with pytest.raises(StageUnavailable):
                await stage.ask(number, WAIT_S)
        assert asked == list(range(FAILURES_TO_OPEN))

    asyncio.run(scenario())


def test_requests_of_one_turn_and_those_that_come_meanwhile_travel_together() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        stage = Stage("double", doubler.send, max_batch_size=4)
        asked = [asyncio.ensure_future(stage.ask(number, WAIT_S)) for number in range(10)]
        while not doubler.batches:
            await asyncio.sleep(0)
        doubler.gate.set()
        assert await asyncio.gather(*asked) == [2 * number for number in range(10)]
        assert [len(batch) for batch in doubler.batches] == [4, 4, 2]

    asyncio.run(scenario())


def test_where_there_is_little_to_do_another_batch_leaves_beside_one_and_no_third() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        stage = Stage("double", doubler.send, max_batch_size=4, is_calm=lambda: True)
        asked = await _asked_in_turn(stage, 4)
        assert doubler.batches == [[0], [1]]
        doubler.gate.set()
        assert await asyncio.gather(*asked) == [0, 2, 4, 6]
        assert sum(map(len, doubler.batches)) == 4

    asyncio.run(scenario())


def test_where_there_is_much_to_do_no_batch_leaves_until_the_last_is_back() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        stage: Stage[int, int] = Stage(
            "double", doubler.send, max_batch_size=4, is_calm=lambda: stage.under_way < 3
        )
        asked = await _asked_in_turn(stage, 1)
        asked += [asyncio.ensure_future(stage.ask(number, WAIT_S)) for number in (1, 2)]
        await asyncio.sleep(0)
        assert stage.under_way == 3
        assert doubler.batches == [[0]]
        doubler.gate.set()
        assert await asyncio.gather(*asked) == [0, 2, 4]
        assert doubler.batches == [[0], [1, 2]]
        assert stage.under_way == 0

    asyncio.run(scenario())


def test_a_full_batch_leaves_beside_another_one_and_no_third_however_much_there_is_to_do() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        stage = Stage("double", doubler.send, max_batch_size=4, is_calm=lambda: False)
        asked = await _asked_in_turn(stage, 4)
        assert doubler.batches == [[0]]  # three more are no full batch
        asked += [asyncio.ensure_future(stage.ask(number, WAIT_S)) for number in range(4, 13)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert doubler.batches == [[0], [1, 2, 3, 4]]
        doubler.gate.set()
        assert await asyncio.gather(*asked) == [2 * number for number in range(13)]
        assert [len(batch) for batch in doubler.batches] == [1, 4, 4, 4]

    asyncio.run(scenario())


async def _asked_in_turn(stage: Stage[int, int], count: int) -> list[asyncio.Future[int]]:
    """Ask for 0, 1, ...; each query has the time to leave before the next one comes."""
    asked: list[asyncio.Future[int]] = []
    for number in range(count):
        asked.append(asyncio.ensure_future(stage.ask(number, WAIT_S)))
        for _ in range(5):
            await asyncio.sleep(0)
    return asked


def test_the_next_batch_leaves_before_the_answers_of_the_last_are_handed_out() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        stage = Stage("double", doubler.send, max_batch_size=4)
        left_when_answered: dict[int, int] = {}

        async def ask(number: int) -> None:
            await stage.ask(number, WAIT_S)
            left_when_answered[number] = len(doubler.batches)

        asked = [asyncio.ensure_future(ask(number)) for number in range(9)]
        while not doubler.batches:
            await asyncio.sleep(0)
        doubler.gate.set()
        await asyncio.gather(*asked)
        assert all(left_when_answered[number] >= 2 for number in range(4))
        assert all(left_when_answered[number] == 3 for number in range(4, 9))

    asyncio.run(scenario())


def test_a_request_that_is_told_to_wait_leaves_with_those_that_come_meanwhile() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        stage = Stage("double", doubler.send, max_batch_size=4, wait_s=0.05)
        first = asyncio.ensure_future(stage.ask(1, WAIT_S))
        await asyncio.sleep(0.01)
        assert await stage.ask(2, WAIT_S) == 4
        assert await first == 2
        assert doubler.batches == [[1, 2]]
        assert await stage.ask(3, WAIT_S) == 6  # alone: it waits, and leaves all the same

    asyncio.run(scenario())


def test_a_full_batch_waits_for_nobody() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        stage = Stage("double", doubler.send, max_batch_size=4, wait_s=2 * WAIT_S)
        asked = [asyncio.ensure_future(stage.ask(number, WAIT_S)) for number in range(6)]
        assert await asyncio.gather(*asked[:4]) == [0, 2, 4, 6]
        assert doubler.batches == [[0, 1, 2, 3]]
        for waiting in asked[4:]:
            waiting.cancel()

    asyncio.run(scenario())


def test_as_many_batches_are_away_as_may_be() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        stage = Stage("double", doubler.send, max_batch_size=4, max_away=lambda: 2)
        asked = [asyncio.ensure_future(stage.ask(number, WAIT_S)) for number in range(10)]
        while len(doubler.batches) < 2:
            await asyncio.sleep(0)
        doubler.gate.set()
        assert await asyncio.gather(*asked) == [2 * number for number in range(10)]
        assert [len(batch) for batch in doubler.batches] == [4, 4, 2]

    asyncio.run(scenario())


def test_a_late_answer_is_an_error_for_the_request_alone() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        stage = Stage("double", doubler.send, max_batch_size=4)
        patient = asyncio.ensure_future(stage.ask(1, WAIT_S))
        with pytest.raises(StageUnavailable, match="double"):
            await stage.ask(2, 0.01)
        doubler.gate.set()
        assert await patient == 2

    asyncio.run(scenario())


def test_impatient_requests_do_not_make_the_stage_look_broken() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        stage = Stage("double", doubler.send, max_batch_size=4)
        for _ in range(2 * FAILURES_TO_OPEN):
            with pytest.raises(StageUnavailable):
                await stage.ask(1, 0.001)
        assert not stage.is_open

    asyncio.run(scenario())


@pytest.mark.parametrize("wait_s, is_open", [(0.7, False), (1.1, True)])
def test_a_batch_that_left_beside_another_one_may_take_the_time_of_both(
    wait_s: float, is_open: bool
) -> None:
    async def scenario() -> None:
        first_is_back = asyncio.Event()

        async def send(numbers: Sequence[int]) -> list[int]:
            if 0 not in numbers:
                await asyncio.Event().wait()
            await first_is_back.wait()
            return list(numbers)

        stage = Stage("same", send, max_batch_size=2, is_calm=lambda: False)
        batches = [asyncio.ensure_future(stage.ask(number, WAIT_S)) for number in range(4)]
        impatient = [stage.ask(number, wait_s) for number in range(4, 4 + FAILURES_TO_OPEN)]
        first_is_back.set()
        assert await asyncio.gather(*batches[:2]) == [0, 1]
        gone = await asyncio.gather(*impatient, return_exceptions=True)
        assert all(isinstance(each, StageUnavailable) for each in gone)
        assert stage.is_open == is_open
        for waiting in batches[2:]:
            waiting.cancel()

    asyncio.run(scenario())


def test_a_stage_that_does_not_answer_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STUCK_S", 0.005)

    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.clear()
        stage = Stage("double", doubler.send, max_batch_size=4)
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(StageUnavailable):
                await stage.ask(1, 0.02)
        assert stage.is_open

    asyncio.run(scenario())


def test_a_stage_that_keeps_failing_is_left_alone_and_then_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.05)

    async def scenario() -> None:
        doubler = Doubler()
        doubler.broken = True
        stage = Stage("double", doubler.send, max_batch_size=4)
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(StageUnavailable):
                await stage.ask(1, WAIT_S)
        assert stage.is_open
        sent = len(doubler.batches)
        with pytest.raises(StageUnavailable):
            await stage.ask(1, WAIT_S)
        assert len(doubler.batches) == sent  # nothing was sent
        doubler.broken = False
        await asyncio.sleep(0.06)
        assert await stage.ask(4, WAIT_S) == 8
        assert not stage.is_open

    asyncio.run(scenario())
