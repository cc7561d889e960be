"""How busy a replica is, how many are wanted, who is known to answer: by clocks of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.config import DeploymentConfig
from heliograph_serve.autoscaling import (
    ProcessorMeter,
    WorkMeter,
    autoscaling,
    replicas_wanted,
)
from heliograph_serve.crew import REMEMBERED_S, Answers, Crew
from heliograph_serve.item_follower import Edition

BUNDLE = Edition("bundle", 0)


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_work_that_overlaps_counts_once() -> None:
    clock = Clock()
    meter = WorkMeter(clock)
    with meter:
        clock.now += 1
        with meter:
            clock.now += 1
        clock.now += 1
    clock.now += 3
    assert meter.share() == pytest.approx(0.5)


def test_work_under_way_counts_up_to_now_and_only_once() -> None:
    clock = Clock()
    meter = WorkMeter(clock)
    with meter:
        clock.now += 2
        assert meter.share() == 1
        clock.now += 1
    clock.now += 1
    assert meter.share() == pytest.approx(0.5)
    assert meter.share() == 0


def test_waiting_takes_no_processor() -> None:
    clock, used = Clock(), Clock()
    meter = ProcessorMeter(clock, used)
    clock.now, used.now = clock.now + 4, used.now + 1
    assert meter.share() == pytest.approx(0.25)
    clock.now += 4
    assert meter.share() == 0


@given(
    st.integers(1, 100),
    st.floats(0, 1),
    st.floats(0.05, 1),
)
def test_the_replicas_that_are_wanted_bring_the_work_to_its_target(
    running: int, share: float, target: float
) -> None:
    wanted = replicas_wanted(running, share, target)
    work = running * share
    assert work / wanted <= target * 1.02
    assert wanted == 1 or work / (wanted - 1) > target


def test_a_target_that_is_met_changes_nothing() -> None:
    for running in range(1, 50):
        assert replicas_wanted(running, 0.7, 0.7) == running


def test_serve_gets_the_settings_and_the_policy() -> None:
    settings = DeploymentConfig(min_replicas=2, max_replicas=5, target_busy=0.4, upscale_delay_s=3)
    config = autoscaling(settings)
    assert (config.min_replicas, config.max_replicas, config.upscale_delay_s) == (2, 5, 3)
    assert config.policy.policy_kwargs == {"target": 0.4}


def test_whoever_has_answered_lately_is_counted() -> None:
    async def scenario() -> None:
        clock, turn = Clock(), iter("abab" + "b" * 10)

        async def call(edition: Edition, batch: Sequence[int]) -> Answers[int]:
            return Answers([2 * number for number in batch], next(turn))

        crew: Crew[int, int] = Crew(call, clock)
        assert crew.size() == 1
        assert await crew.ask(BUNDLE, [1, 2]) == [2, 4]
        assert crew.size() == 1
        await crew.ask(BUNDLE, [1])
        assert crew.size() == 2
        for _ in range(3):
            clock.now += REMEMBERED_S / 2
            await crew.ask(BUNDLE, [1])
        assert crew.size() == 2  # a was heard half the time ago
        clock.now += REMEMBERED_S * 0.6
        await crew.ask(BUNDLE, [1])
        assert crew.size() == 1

    asyncio.run(scenario())
