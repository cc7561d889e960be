"""Exposures in the event store and the report on them: the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from heliograph.cli import app as commands
from heliograph.event_store.event import Event
from heliograph.event_store.exposures import (
    USERS_A_READ,
    Deed,
    Exposure,
    Seen,
    Subject,
    forget_exposures,
    keep_exposures,
    subjects,
)
from heliograph.event_store.store import EventStore
from heliograph.experiment_display import report as tables
from heliograph.experiment_display import runs
from heliograph.experiment_report import (
    ExperimentReport,
    Outcome,
    Question,
    compared,
    outcome,
    report,
)
from heliograph.experiments import Arm, Experiment
from heliograph.lift import lift
from heliograph.workspace import InputError
from small_shop import write_shop
from stores import event, exposure, opened
from test_event_store import url

__all__ = ["url"]

SECOND_US = 1_000_000
QUESTION = Question("larger-model", ("purchase",), within_s=100)


async def told(store: EventStore, experiment: str = "larger-model") -> list[Subject]:
    return [one async for some in subjects(store, experiment, ["purchase"]) for one in some]


def bought(number: int, user: str, item: str, at_s: float, value: float | None = None) -> Event:
    return Event(f"e{number}", user, item, round(at_s * SECOND_US), "purchase", value)


def test_exposures_come_back_with_what_their_users_did(url: str) -> None:
    odd = exposure(3, "Ünï;-- 'x\"", "treatment", "日本", "a\\b", "'); DROP TABLE events")

    async def run() -> None:
        async with opened(url) as store:
            assert await keep_exposures(store, [exposure(2), exposure(1), odd]) == 3
            await store.append([[bought(1, "ann", "i1", 5, 2.5), event(2), event(3, "nobody")]])
            ann, other = await told(store)
            if len(ann.seen) == 1:  # databases sort letters in different ways
                ann, other = other, ann
            assert ann.seen == [
                Seen(number * SECOND_US, "control", 0.5, "generative", ("i1", "i2"))
                for number in (1, 2)
            ]
            assert ann.deeds == [Deed("i1", 5 * SECOND_US, 2.5)]
            assert [(one.arm, one.item_ids) for one in other.seen] == [("treatment", odd.item_ids)]
            assert other.deeds == []
            assert await told(store, "another") == []

    asyncio.run(run())


def test_an_exposure_that_is_written_again_is_there_once(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            await keep_exposures(store, [exposure(1), exposure(1)])
            await keep_exposures(store, [exposure(1), exposure(2)])
            (ann,) = await told(store)
            assert len(ann.seen) == 2

    asyncio.run(run())


def test_every_user_is_told_once_however_many_there_are(url: str) -> None:
    users = [f"user-{number}" for number in range(2 * USERS_A_READ + 3)]

    async def run() -> None:
        async with opened(url) as store:
            await keep_exposures(store, [exposure(n, user) for n, user in enumerate(users)])
            found = await told(store)
            assert sorted(one.seen[0].time_us for one in found) == [
                number * SECOND_US for number in range(len(users))
            ]

    asyncio.run(run())


def test_an_erased_user_leaves_no_exposure_and_gets_none_from_before(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            await keep_exposures(store, [exposure(1), exposure(2), exposure(3, "bob")])
            erased = await store.erase("ann", 10 * SECOND_US)
            assert (erased.events, erased.exposures) == (0, 2)
            # written by a replica that did not know yet, and after who came back was answered
            assert await keep_exposures(store, [exposure(9), exposure(11), exposure(4, "bob")]) == 2
            assert sorted(len(one.seen) for one in await told(store)) == [1, 2]
            assert (await store.erase("nobody", 1)).exposures == 0

    asyncio.run(run())


def seen(at_s: float, *items: str, arm: Arm = "control") -> Seen:
    return Seen(round(at_s * SECOND_US), arm, 0.5, "popular", items)


def done(item: str, at_s: float, value: float | None = None) -> Deed:
    return Deed(item, round(at_s * SECOND_US), value)


@pytest.mark.parametrize(
    ("deeds", "shown", "of_any"),
    [
        ([], 0, 0),
        ([done("a", 11)], 1, 1),
        ([done("a", 9)], 0, 0),  # before anything was shown
        ([done("a", 110), done("a", 110.5)], 1, 1),  # the second comes too late
        ([done("c", 20)], 0, 1),  # never shown
        ([done("b", 20), done("b", 40)], 1, 2),  # shown at 30
        ([done("a", 10), done("b", 31), done("a", 12)], 3, 3),
    ],
)
def test_what_counts_is_what_was_shown_before_and_done_in_time(
    deeds: list[Deed], shown: int, of_any: int
) -> None:
    subject = Subject([seen(10, "a"), seen(30, "a", "b")], deeds)
    assert outcome(subject, QUESTION, now_us=0).events == shown
    question = Question("larger-model", ("purchase",), 100, attribution="any")
    assert outcome(subject, question, now_us=0).events == of_any


def test_an_outcome_adds_up_values_and_knows_whether_its_time_is_over() -> None:
    subject = Subject([seen(10, "a", arm="treatment")], [done("a", 11, 2.5), done("a", 12)])
    assert outcome(subject, QUESTION, 50 * SECOND_US) == Outcome("treatment", 1, 0, 2, 2.5, True)
    assert not outcome(subject, QUESTION, 110 * SECOND_US).is_open


def outcomes(arm: Arm, events: Sequence[int], value: float = 0.0) -> list[Outcome]:
    return [Outcome(arm, 2, 1, count, value * count, False) for count in events]


def test_arms_are_compared_by_their_users() -> None:
    control, treatment = [0, 1, 0, 2] * 100, [1, 1, 0, 2] * 100
    found = compared(
        outcomes("control", control, 3.0) + outcomes("treatment", treatment, 3.0), QUESTION, 0.5
    )
    assert found.too_early is None and not found.ratio.is_broken
    assert found.lifts["events"] == lift(np.array(control, float), np.array(treatment, float))
    assert found.lifts["converted"].relative == pytest.approx(0.5)
    assert found.lifts["value"].difference == pytest.approx(0.75)
    assert found.arms["treatment"].converters == 300
    without = compared(
        outcomes("control", control) + outcomes("treatment", treatment), QUESTION, 0.5
    )
    assert set(without.lifts) == {"converted", "events"}


@pytest.mark.parametrize(
    ("control", "treatment", "reason"),
    [
        ([1] * 99, [1] * 5000, "an arm has 99 users"),
        ([], [1] * 5000, "an arm has 0 users"),
        ([0] * 990 + [1] * 10, [0] * 991 + [1] * 9, "19 users in both arms"),
        ([0] * 1000, [0] * 1000, "0 users in both arms"),
    ],
)
def test_of_few_users_nothing_is_said(
    control: list[int], treatment: list[int], reason: str
) -> None:
    found = compared(outcomes("control", control) + outcomes("treatment", treatment), QUESTION, 0.5)
    assert found.too_early is not None and reason in found.too_early and not found.lifts
    assert "too early" in printed(found)


def test_a_treatment_that_nobody_likes_is_not_too_early() -> None:
    found = compared(
        outcomes("control", [0, 1] * 60) + outcomes("treatment", [0] * 120), QUESTION, 0.5
    )
    assert found.lifts["converted"].relative == -1


def printed(found: ExperimentReport) -> str:
    out = StringIO()
    for part in tables(found):
        Console(file=out, width=160).print(part)
    return out.getvalue()


def test_a_broken_division_is_told_first_of_all() -> None:
    many = outcomes("control", [0, 1] * 1000) + outcomes("treatment", [0, 1] * 800)
    text = printed(compared(many, QUESTION, 0.5))
    assert text.startswith("the arms are not divided as they should be: 44.44%")
    assert "do not trust the lift" in text
    sound = printed(compared(many + outcomes("treatment", [0, 1] * 200), QUESTION, 0.5))
    assert "as it should be" in sound and "+0.0%" in sound


def test_names_are_shown_as_they_are() -> None:
    question = Question("x", ("[red]buy[/red]",), 7200)
    text = printed(compared(outcomes("control", [1] * 3), question, 0.5))
    assert "[red]buy[/red] of items shown, within 2 h" in text
    run = {"name": "x", "control": "a", "treatment": "b", "share": 0.25, "started": "now"}
    out = StringIO()
    Console(file=out, width=160).print(
        runs(
            [
                run | {"ended": None, "goes_on": True},
                run | {"ended": None, "goes_on": False},
                run | {"ended": "later", "goes_on": False},
            ]
        )
    )
    for words in ("25%", "goes on", "with its graph", "later"):
        assert words in out.getvalue()


EXPERIMENT = Experiment("larger-model", "shop-2", 0.3)


def world(users: int, seed: int) -> tuple[list[Exposure], list[Event], dict[Arm, list[int]]]:
    """Show every user an item twice; a third buys it, of the treatment the half."""
    rng = np.random.default_rng(seed)
    shown, events = [], []
    counts: dict[Arm, list[int]] = {"control": [], "treatment": []}
    for number in range(users):
        user = f"user-{number}"
        assignment = EXPERIMENT.assign(user)
        for time in (number, number + 0.5):
            one = exposure(0, user, assignment.arm, f"i{number % 7}", "other")
            fields = asdict(one) | {
                "exposure_id": f"{user} {time}",
                "time_us": round(time * SECOND_US),
                "propensity": assignment.propensity,
            }
            shown.append(Exposure(**fields))
        buys = bool(rng.random() < (0.5 if assignment.arm == "treatment" else 1 / 3))
        counts[assignment.arm].append(int(buys))
        if buys:
            events.append(bought(2 * number, user, f"i{number % 7}", number + 1, 3.0))
        events.append(bought(2 * number + 1, user, "never shown", number + 1))
    return shown, events, counts


def test_the_report_finds_what_was_put_into_the_store(url: str) -> None:
    shown, events, counts = world(500, seed=1)

    async def run() -> None:
        async with opened(url) as store:
            await keep_exposures(store, shown)
            await store.append([events])
            found = await report(store, QUESTION, now_us=10**15)
            assert {arm: one.users for arm, one in found.arms.items()} == {
                arm: len(ones) for arm, ones in counts.items()
            }
            assert found.arms["control"].exposures == 2 * len(counts["control"])
            assert found.lifts["converted"] == lift(
                np.array(counts["control"], float), np.array(counts["treatment"], float)
            )
            assert found.lifts["converted"].low > 0
            assert found.ratio.expected_share == pytest.approx(0.3)
            assert not found.ratio.is_broken and found.in_both == 0
            await keep_exposures(
                store, [exposure(1, "user-3", "control"), exposure(2, "user-3", "treatment")]
            )
            assert (await report(store, QUESTION, now_us=10**15)).in_both == 1
            with pytest.raises(InputError, match="no exposures of an experiment 'unknown'"):
                await report(store, Question("unknown", ("purchase",), 1), 0)

    asyncio.run(run())


def test_the_command_prints_the_report_of_a_store(tmp_path: Path) -> None:
    config = write_shop(tmp_path / "shop")
    shown, events, counts = world(400, seed=2)

    async def fill() -> None:
        async with opened(f"sqlite:///{tmp_path}/events.sqlite") as store:
            await keep_exposures(store, shown)
            await store.append([events])

    asyncio.run(fill())
    command = ["experiment", "report", str(config), "larger-model", "--goal", "purchase"]
    place = ["--set", f"serve.store=sqlite:///{tmp_path}/events.sqlite"]
    done = CliRunner().invoke(commands, [*command, *place, "--within", "2d", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["arms"]["treatment"]["converters"] == sum(counts["treatment"])
    assert told["question"]["within_s"] == 2 * 86_400
    done = CliRunner().invoke(commands, [*command, *place, "--all-items"])
    assert "100.00%" in done.output and "purchase of any item, within 7 d" in done.output
    missing = CliRunner().invoke(commands, command)
    assert "events cannot be kept" in str(missing.exception)
    forget = ["experiment", "forget", str(config), "larger-model", *place]
    assert CliRunner().invoke(commands, forget, input="n\n").exit_code == 1
    done = CliRunner().invoke(commands, [*forget, "--yes"])
    assert f"{len(shown)} exposures of larger-model are deleted" in done.output
    gone = CliRunner().invoke(commands, [*command, *place])
    assert "no exposures of an experiment" in str(gone.exception)


def test_what_is_forgotten_is_of_one_experiment(url: str) -> None:
    shown, events, _ = world(1_200, seed=3)  # more users than are deleted at a time

    async def run() -> None:
        async with opened(url) as store:
            other = [
                replace(one, exposure_id=f"o{one.exposure_id}", experiment="o") for one in shown
            ]
            await keep_exposures(store, [*shown, *other])
            await store.append([events])
            assert await forget_exposures(store, "larger-model") == len(shown)
            assert await forget_exposures(store, "larger-model") == 0
            left = await report(store, Question("o", ("purchase",), 1), now_us=10**15)
            assert sum(one.exposures for one in left.arms.values()) == len(other)

    asyncio.run(run())
