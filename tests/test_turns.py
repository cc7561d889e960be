"""One deployment at a time: the turn as a file, and what a deployment without it does not do."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from heliograph.bundle import Bundle, open_bundle, write_bundle
from heliograph.deployments import (
    Deployment,
    newest_deployment,
    newest_generation,
    write_deployment,
)
from heliograph.turns import BEAT_S, KEPT, LEASE_S, Turn, take_turn
from heliograph_serve.rollout import Fleet, Rollout, Rollouts, UnderWay
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import Origin, Shelf
from test_bundle import config, write_parts

THREADS = 8


class Clock:
    """Tells the time that it was set to."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(bundles: Path, clock: Callable[[], float]) -> Turn:
    turn = take_turn(bundles, clock)
    assert turn is not None
    return turn


def turn_files(bundles: Path) -> list[Path]:
    return sorted((bundles / "deployments").iterdir())


def test_of_two_takers_one_has_the_turn_until_it_gives_it_back(
    tmp_path: Path, clock: Clock
) -> None:
    first = taken(tmp_path, clock)
    assert take_turn(tmp_path, clock) is None
    assert first.keep()
    first.give_back()
    second = taken(tmp_path, clock)
    assert take_turn(tmp_path, clock) is None
    assert second.keep() and not first.keep()


def test_a_turn_that_is_kept_goes_on_and_one_that_is_not_ends(tmp_path: Path, clock: Clock) -> None:
    first = taken(tmp_path, clock)
    for _ in range(20):
        clock.now += LEASE_S - 1
        assert take_turn(tmp_path, clock) is None
        assert first.keep()
    clock.now += LEASE_S
    second = taken(tmp_path, clock)
    assert second.keep() and not first.keep()


def test_whoever_was_late_has_the_turn_still_if_nobody_came(tmp_path: Path, clock: Clock) -> None:
    turn = taken(tmp_path, clock)
    clock.now += 10 * LEASE_S
    assert turn.keep()
    assert take_turn(tmp_path, clock) is None


def test_who_has_lost_the_turn_neither_keeps_nor_gives_back_that_of_another(
    tmp_path: Path, clock: Clock
) -> None:
    first = taken(tmp_path, clock)
    clock.now += LEASE_S
    second = taken(tmp_path, clock)
    clock.now += LEASE_S - 1
    assert not first.keep()
    first.give_back()
    assert take_turn(tmp_path, clock) is None
    clock.now += 1
    assert not first.keep()
    third = taken(tmp_path, clock)  # what the first said has not made the second's last longer
    assert third.keep() and not second.keep()


def test_a_turn_that_was_given_back_is_not_taken_up_by_a_late_beat(
    tmp_path: Path, clock: Clock
) -> None:
    first = taken(tmp_path, clock)
    first.give_back()
    assert not first.keep()
    assert taken(tmp_path, clock).keep()


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 4096])
def test_a_damaged_turn_ends_like_any_other(tmp_path: Path, clock: Clock, content: bytes) -> None:
    taken(tmp_path, clock)
    [file] = turn_files(tmp_path)
    file.write_bytes(content)
    os.utime(file, (clock.now, clock.now))
    assert take_turn(tmp_path, clock) is None
    clock.now += LEASE_S
    assert taken(tmp_path, clock).keep()


@pytest.mark.parametrize("skew", [-20.0, 20.0, 1e9])
def test_clocks_that_differ_block_nobody_for_ever(
    tmp_path: Path, clock: Clock, skew: float
) -> None:
    ahead = Clock()
    ahead.now = clock.now + skew
    taken(tmp_path, ahead)
    clock.now += LEASE_S + 20
    assert taken(tmp_path, clock).keep()


@pytest.mark.parametrize("name", ["turn-1", "turn-x", "turn-0000000009", "turn-٣", ".draft-abc"])
def test_strange_files_are_in_nobodys_way(tmp_path: Path, clock: Clock, name: str) -> None:
    (tmp_path / "deployments").mkdir()
    (tmp_path / "deployments" / name).touch()
    for _ in range(3):
        turn = taken(tmp_path, clock)
        assert take_turn(tmp_path, clock) is None and turn.keep()
        turn.give_back()


def test_turns_are_no_deployments_and_only_the_last_few_stay(tmp_path: Path, clock: Clock) -> None:
    first = taken(tmp_path, clock)
    first.give_back()
    for _ in range(20):
        taken(tmp_path, clock).give_back()
    assert len(turn_files(tmp_path)) == KEPT + 2  # behind the last, and the last two
    assert newest_generation(tmp_path) == 0 and newest_deployment(tmp_path) is None
    assert not first.keep()  # its file is gone
    first.give_back()
    assert taken(tmp_path, clock).keep()


def test_who_was_away_while_its_number_came_and_went_has_no_turn(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, holders = os.link, list[Turn]()

    def slow_link(source: str, target: Path) -> None:
        monkeypatch.undo()
        for _ in range(KEPT):
            taken(tmp_path, clock).give_back()
        holders.append(taken(tmp_path, clock))
        assert not target.exists()
        link(source, target)

    monkeypatch.setattr(os, "link", slow_link)
    assert take_turn(tmp_path, clock) is None
    assert holders[0].keep()
    assert take_turn(tmp_path, clock) is None


@pytest.mark.parametrize("ends", ["given back", "not heard of"])
def test_of_many_who_take_it_at_once_exactly_one_has_the_turn(
    tmp_path: Path, clock: Clock, ends: str
) -> None:
    barrier = threading.Barrier(THREADS)

    def take(_: int) -> Turn | None:
        barrier.wait()
        return take_turn(tmp_path, clock)

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(100):
            turns = list(pool.map(take, range(THREADS)))
            [turn] = [turn for turn in turns if turn is not None]
            if ends == "given back":
                turn.give_back()
            else:
                clock.now += LEASE_S


def test_nobody_ever_has_the_turn_beside_another(tmp_path: Path) -> None:
    alone, times = threading.Lock(), list[int]()

    def try_often(number: int) -> None:
        for _ in range(200):
            if (turn := take_turn(tmp_path)) is None:
                continue
            assert alone.acquire(blocking=False)
            assert turn.keep()
            times.append(number)
            alone.release()
            turn.give_back()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(try_often, range(THREADS)))
    assert len(times) > 1


class SilentFleet(Fleet):
    """Replicas that do what they are told; what they are told is written down."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self.told: list[str] = []
        self.meanwhile: dict[int, Callable[[], None]] = {}
        """What happens while they do what they are told first, second and so on."""

    async def ingress(self, method: str, *args: object, timeout_s: float) -> list[object]:
        self._tell(method)
        return []

    async def everyone(
        self, method: str, *args: object, timeout_s: float
    ) -> dict[str, list[object]]:
        self._tell(method)
        return {}

    def _tell(self, method: str) -> None:
        self.told.append(method)
        self.meanwhile.get(len(self.told), lambda: None)()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two bundles, alpha and beta, into a folder."""
    parts = write_parts(tmp_path_factory.mktemp("parts"))
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("alpha", "beta"):
        write_bundle(parts, config(name), folder)
    return folder


@pytest.fixture
def bundles(two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "bundles"))


def named(bundles: Path, name: str) -> Bundle:
    return open_bundle(next(bundles.glob(f"{name}-*")))


def replica(bundles: Path) -> tuple[Rollouts, SilentFleet]:
    """Return what leads deployments in one replica of the ingress, which serves alpha."""
    alpha, fleet = named(bundles, "alpha"), SilentFleet()
    shelf = Shelf(Origin(alpha.folder, alpha.id, "this-graph"), lambda bundle: bundle)
    return Rollouts(fleet, cast(Shelf[Serving], shelf)), fleet


async def ended(rollout: Rollout) -> Rollout:
    while rollout.step not in ("done", "failed"):
        await asyncio.sleep(0.001)
    return rollout


def test_one_replica_deploys_at_a_time_and_the_next_one_knows_what_it_comes_after(
    bundles: Path,
) -> None:
    async def scenario() -> None:
        one, other = replica(bundles)[0], replica(bundles)[0]
        alpha, beta = named(bundles, "alpha").id, named(bundles, "beta").id
        begun = await one.deploy(beta, keep_previous=True)
        with pytest.raises(UnderWay, match="another deployment is under way; see GET /v1/admin"):
            await other.deploy(beta, keep_previous=True)
        assert (await ended(begun)).error is None
        with pytest.raises(UnderWay, match="was just deployed"):  # it has not heard of it
            await other.deploy(beta, keep_previous=True)
        deployed = newest_deployment(bundles)
        assert deployed is not None and (deployed.bundle, deployed.previous) == (beta, alpha)
        await other.shelf.follow(deployed)
        assert (await ended(await other.rollback())).error is None
        deployed = newest_deployment(bundles)
        assert deployed is not None and (deployed.bundle, deployed.generation) == (alpha, 2)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("lost_at", "told"),
    [
        (1, ["prepare", "smoke", "warm_up"]),
        (2, ["prepare", "smoke", "warm_up"]),
        (4, ["prepare", "smoke", "warm_up", "prepare"]),  # of replicas that have started since
    ],
)
def test_a_deployment_that_has_lost_its_turn_swaps_and_unloads_nothing(
    bundles: Path, lost_at: int, told: list[str]
) -> None:
    newcomers: list[Turn] = []

    def take_over() -> None:
        os.utime(turn_files(bundles)[-1], (0, 0))
        newcomers.append(taken(bundles, clock=Clock()))

    async def scenario() -> None:
        rollouts, fleet = replica(bundles)
        fleet.meanwhile[lost_at] = take_over
        rollout = await ended(await rollouts.deploy(named(bundles, "beta").id, keep_previous=True))
        assert rollout.step == "failed" and "another one began" in str(rollout.error)
        assert fleet.told == told
        assert newest_deployment(bundles) is None
        assert newcomers[0].keep()

    asyncio.run(scenario())


def test_a_second_writer_is_refused_even_if_it_believes_that_it_has_the_turn(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        rollouts, fleet = replica(bundles)
        other, _ = replica(bundles)
        monkeypatch.setattr(Turn, "keep", lambda turn: True)
        begun: list[Rollout] = []

        def take_over() -> None:
            os.utime(turn_files(bundles)[-1], (0, 0))
            begun.append(asyncio.run(other_deploys()))

        async def other_deploys() -> Rollout:
            return await ended(await other.deploy(named(bundles, "beta").id, keep_previous=True))

        fleet.meanwhile[2] = lambda: run_in_a_thread(take_over)
        rollout = await ended(await rollouts.deploy(named(bundles, "beta").id, keep_previous=True))
        assert begun[0].error is None
        assert "another deployment came first" in str(rollout.error)
        assert newest_generation(bundles) == 1

    asyncio.run(scenario())


def run_in_a_thread(work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def test_who_leads_a_deployment_keeps_the_turn_by_beats(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heliograph_serve.rollout.BEAT_S", 0.001)
    assert 3 * BEAT_S < LEASE_S  # some beats may fail

    async def scenario() -> None:
        rollouts, fleet = replica(bundles)
        done = asyncio.Event()

        async def wait(method: str, *args: object, timeout_s: float) -> list[object]:
            file = turn_files(bundles)[-1]
            os.utime(file, (0, 0))
            while file.stat().st_mtime == 0:
                await asyncio.sleep(0.001)
            done.set()
            return []

        monkeypatch.setattr(fleet, "ingress", wait)
        rollout = await ended(await rollouts.deploy(named(bundles, "beta").id, keep_previous=True))
        assert done.is_set() and rollout.error is None

    asyncio.run(scenario())


def test_a_deployment_that_is_refused_leaves_the_turn_to_others(bundles: Path) -> None:
    async def scenario() -> None:
        rollouts, _ = replica(bundles)
        beta = named(bundles, "beta")
        written = Deployment(1, "this-graph", beta.id, None, "2026-01-01T00:00:00+00:00")
        write_deployment(bundles, written)
        with pytest.raises(UnderWay, match="was just deployed"):
            await rollouts.deploy(beta.id, keep_previous=True)
        assert take_turn(bundles) is not None

    asyncio.run(scenario())
