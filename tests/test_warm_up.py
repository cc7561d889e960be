"""Recent users are answered before a bundle is served, with a stand-in for the bundle's stages."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from heliograph.history import NO_PAST, Past
from heliograph_serve import warm_up as module
from heliograph_serve.serving import Serving
from heliograph_serve.warm_up import AT_ONCE, warm_up


class Answers:
    """Notes who is answered; each answer takes a turn of the loop, or for ever."""

    def __init__(self) -> None:
        self.rules = SimpleNamespace(plan=None)
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.hangs = False

    async def past_of(self, user: str) -> Past:
        self.asked.append(user)
        return NO_PAST

    async def recommend(self, *_: Any) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await (asyncio.Event().wait() if self.hangs else asyncio.sleep(0))
        self.at_once -= 1


def warmed_up(answers: Answers, users: list[str]) -> None:
    asyncio.run(warm_up(cast(Serving, answers), users, answers.past_of))


def test_everybody_is_answered_once_the_latest_first() -> None:
    answers = Answers()
    warmed_up(answers, ["ann", "bob", "ann", "eve", "bob"])
    assert answers.asked == ["bob", "eve", "ann"]


def test_few_are_answered_at_once() -> None:
    answers = Answers()
    warmed_up(answers, [f"user-{number}" for number in range(100)])
    assert len(answers.asked) == 100
    assert answers.most_at_once == AT_ONCE


def test_it_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_S", 0.05)
    answers = Answers()
    answers.hangs = True
    warmed_up(answers, [f"user-{number}" for number in range(100)])
    assert len(answers.asked) == AT_ONCE
