"""An answer that serves all who ask within a while, with real coroutines."""

from __future__ import annotations

import asyncio

import pytest

from heliograph_serve.recently import Recently


class Oracle:
    """Counts how often it is asked; answers when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.now = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False

    async def look(self) -> int:
        self.asked += 1
        number = self.asked
        await self.gate.wait()
        if self.broken:
            raise RuntimeError("broken")
        return number

    def recently(self) -> Recently[int]:
        return Recently(self.look, 1.0, lambda: self.now)


def test_all_who_ask_at_once_share_one_answer() -> None:
    async def scenario() -> None:
        oracle = Oracle()
        oracle.gate.clear()
        recently = oracle.recently()
        asked = [asyncio.ensure_future(recently.get()) for _ in range(50)]
        await asyncio.sleep(0)
        oracle.gate.set()
        assert await asyncio.gather(*asked) == [1] * 50
        assert oracle.asked == 1

    asyncio.run(scenario())


def test_an_answer_holds_for_a_while_and_no_longer() -> None:
    async def scenario() -> None:
        oracle = Oracle()
        recently = oracle.recently()
        assert await recently.get() == 1
        oracle.now = 0.9
        assert await recently.get() == 1
        oracle.now = 1.0
        assert await recently.get() == 2

    asyncio.run(scenario())


def test_a_failure_is_told_to_all_and_tried_again_after_a_while() -> None:
    async def scenario() -> None:
        oracle = Oracle()
        oracle.broken = True
        recently = oracle.recently()
        for _ in range(3):
            with pytest.raises(RuntimeError):
                await recently.get()
        assert oracle.asked == 1
        oracle.broken, oracle.now = False, 1.0
        assert await recently.get() == 2

    asyncio.run(scenario())


def test_who_gives_up_waiting_ends_it_for_nobody_else() -> None:
    async def scenario() -> None:
        oracle = Oracle()
        oracle.gate.clear()
        recently = oracle.recently()
        impatient, patient = (asyncio.ensure_future(recently.get()) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.sleep(0)
        oracle.gate.set()
        assert await patient == 1
        assert impatient.cancelled()

    asyncio.run(scenario())
