"""Following the changes of items: told, looking by itself, asked by somebody who knows more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from sqlalchemy import text

from heliograph.event_store.item_log import ItemLog, ItemUpdate
from heliograph.item_changes import NO_CHANGES, Changes, ItemState
from heliograph_serve.item_follower import Edition, ItemFollower
from heliograph_serve.rulebook import ChangedVectors
from stores import opened


class Applied:
    """Applies changes by noting them."""

    def __init__(self) -> None:
        self.changes = NO_CHANGES
        self.times = 0

    async def amend(self, changes: Changes) -> None:
        """Note the changes."""
        self.changes = changes
        self.times += 1


def test_whoever_is_asked_with_news_reads_them_first(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path}/events.sqlite") as store:
            log, applied = ItemLog(store), Applied()
            follower = ItemFollower(log, applied)
            await follower.look()
            assert (follower.change, applied.times) == (0, 0)
            await log.write([ItemUpdate("a", True, "{}")])
            assert not await follower.lags_behind(Edition("b", 0))
            assert follower.change == 0
            assert not await follower.lags_behind(Edition("b", 1))
            assert (follower.change, list(applied.changes.states)) == (1, ["a"])
            await log.write([ItemUpdate("b", False)])
            await log.write([ItemUpdate("a", False)])
            await asyncio.gather(*(follower.catch_up(3) for _ in range(5)))
            assert applied.times == 2 and applied.changes.change == 3
            assert [applied.changes.states[one].available for one in "ab"] == [False, False]
            assert await follower.lags_behind(Edition("b", 9))  # nobody has written that

    asyncio.run(run())


def test_without_the_store_what_is_there_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        url = f"sqlite:///{tmp_path}/events.sqlite"
        async with opened(url) as store:
            await store.ready()
            async with store.engines.writing.begin() as connection:
                await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        async with opened(url) as store:  # of a newer version: it is left alone
            follower = ItemFollower(ItemLog(store), Applied())
            await follower.look()
            assert await follower.lags_behind(Edition("b", 1))
            assert follower.change == 0

    asyncio.run(run())


class Hangs(ItemLog):
    """A log whose database takes its time to say that it does not answer."""

    reads = 0

    async def after(self, change: int) -> list[ItemState]:
        """Fail, after a while."""
        self.reads += 1
        await asyncio.sleep(0.1)
        raise TimeoutError


def test_whoever_waits_for_a_read_that_fails_does_not_wait_for_another(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path}/events.sqlite") as store:
            log = Hangs(store)
            follower = ItemFollower(log, Applied())
            many = [follower.catch_up() for _ in range(20)]
            failures = await asyncio.gather(*many, return_exceptions=True)
            assert all(isinstance(one, OSError) for one in failures)
            assert log.reads == 1
            assert all(
                await asyncio.gather(*(follower.lags_behind(Edition("b", 1)) for _ in "abc"))
            )
            assert log.reads == 2  # who comes later tries again

    asyncio.run(run())


def test_changed_vectors_stand_for_those_that_are_mapped() -> None:
    mapped = np.eye(3, dtype=np.float32)
    mapped.flags.writeable = False
    new = np.array([[9, 9, 9], [7, 7, 7]], np.float32)
    vectors = ChangedVectors(mapped, 5, np.array([1, 4], np.int32), new)
    found = vectors[np.array([4, 0, 1, 2], np.int32)]
    assert found.tolist() == [[7, 7, 7], [1, 0, 0], [9, 9, 9], [0, 0, 1]]
