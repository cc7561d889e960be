"""The part of the ingress that hears what users do, without the graph around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from heliograph.config import EventsConfig, ServeConfig
from heliograph.event_store.event import NewEvent
from heliograph.event_store.exporting import export_events
from heliograph.event_store.item_log import ItemLog
from heliograph.event_store.store import EventStore, Heard
from heliograph.events import EVENTS
from heliograph.feedback_files import parts, read_parts, user_digest
from heliograph.history import Histories
from heliograph.interactions import History, Interactions
from heliograph.item_changes import NO_CHANGES
from heliograph.pseudonyms import pseudonym, read_key
from heliograph_serve import tombstones
from heliograph_serve.api_errors import ApiError
from heliograph_serve.cache import CandidateCache
from heliograph_serve.feedback import FeedbackIngress
from heliograph_serve.item_follower import ItemFollower
from heliograph_serve.items import ItemsIngress
from heliograph_serve.items_api import AvailabilityBatch
from heliograph_serve.request_log import line_of
from heliograph_serve.request_record import CURRENT, RequestRecord
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import Shelf
from heliograph_serve.stage import Stage
from stores import event, opened

ROWS = {"i1": 0, "i2": 1}


def bundle(users: list[str], **events: Any) -> Serving:
    """Return what is served: users of whom each has consumed i1, long ago."""
    each = len(users)
    histories = Histories(
        Interactions(
            users, np.arange(each + 1), np.zeros(each, np.int32), np.full(each, 1000, np.int64)
        )
    )
    config = SimpleNamespace(events=EventsConfig(path="events.csv", format="csv", **events))
    return cast(
        Serving,
        SimpleNamespace(
            id="shop-1",
            histories=histories,
            catalogue=SimpleNamespace(row_of=ROWS, ids=list(ROWS)),
            titles=[f"Title of {item_id}" for item_id in ROWS],
            config=config,
            remembered=CandidateCache(1 << 20),
        ),
    )


class Replica(FeedbackIngress, ItemsIngress):
    """An ingress without a graph; its broadcasts reach itself, and others if there are any."""

    def __init__(self, folder: Path, serving: Serving) -> None:
        shelf = SimpleNamespace(
            current=serving,
            held={serving.id: serving},
            origin=SimpleNamespace(bundles=folder),
            look=lambda: None,
        )
        super().__init__(cast("Shelf[Serving]", shelf), ServeConfig())
        self.items = cast(ItemFollower, SimpleNamespace(look=self._no_items))
        self.others: list[Replica] = []

    async def _no_items(self) -> None:
        pass

    async def _forget_everywhere(self, digest: str, histories: dict[str, History]) -> int:
        return sum(one.forget(digest, histories) for one in (self, *self.others))

    async def consumed(self, user: str, is_up: bool = True) -> list[int]:
        """Return what a user is known to have consumed, by a store that is up or by nobody."""
        stage = self.history
        if not is_up:
            self.history = Stage("history", _nobody, 1)
        known = await self.known(self.shelf.current, user, 5.0)
        self.history = stage
        assert known.is_fresh == is_up
        return [int(row) for row in known.past.history]


async def _nobody(users: Sequence[str]) -> Sequence[Heard]:
    raise OSError("the store is down")


@asynccontextmanager
async def replica(folder: Path, serving: Serving | None = None) -> AsyncIterator[Replica]:
    one = Replica(folder, serving or bundle(["ann", "bob"]))
    try:
        yield one
    finally:
        await one.store.close()


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/events.sqlite"


async def make_newer(folder: Path) -> None:
    """Let the store be of a newer heliograph, so that this one leaves it alone."""
    async with opened(url(folder)) as store:
        await store.ready()
        async with store.engines.writing.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))


def test_who_was_erased_stays_so_on_a_replica_that_was_not_there(tmp_path: Path) -> None:
    async def run() -> None:
        async with replica(tmp_path) as old:
            await old.check_health()
            receipt = await old.erase_user("ann")
            assert receipt.bundle_events == 1
            assert (await old.erase_user("ann")).bundle_events == 0
        async with replica(tmp_path) as new:
            await new.check_health()  # Serve asks before the first request
            assert await new.consumed("ann", is_up=False) == []
            assert await new.consumed("bob", is_up=False) == [0]

    asyncio.run(run())


def test_who_was_erased_while_a_replica_did_not_hear_it_is_found_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tombstones, "DIGESTS_A_READ", 2)

    async def run() -> None:
        async with replica(tmp_path) as deaf, replica(tmp_path) as other:
            await deaf.check_health()
            for user in ("ann", *(f"user-{n}" for n in range(6))):
                await other.erase_user(user)
            assert await deaf.consumed("ann", is_up=False) == [0]
            await deaf.check_health()
            await deaf.tombstones.catch_up()  # the look goes on in the background
            assert await deaf.consumed("ann", is_up=False) == []

    asyncio.run(run())


def test_a_look_reads_who_was_erased_only_if_there_is_news(tmp_path: Path) -> None:
    class Counting(EventStore):
        reads = 0

        async def erased(self, after: str, limit: int) -> list[str]:
            self.reads += 1
            return await super().erased(after, limit)

    async def run() -> None:
        async with replica(tmp_path) as one:
            await one.erase_user("ann")
            store = Counting(url(tmp_path))
            known = tombstones.Tombstones(store)
            for _ in range(3):
                await known.catch_up()
            assert store.reads == 1
            await one.erase_user("bob")
            known.add(user_digest("bob"))  # it was told
            await known.catch_up()
            assert store.reads == 1
            await one.erase_user("cid")
            await known.catch_up()
            assert store.reads == 2
            await store.close()

    asyncio.run(run())


def test_before_it_is_known_who_was_erased_no_history_of_the_bundle_is_used(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        await make_newer(tmp_path)
        async with replica(tmp_path) as one:
            await one.check_health()  # in vain
            known = await one.known(one.shelf.current, "bob", 5.0)
            assert (list(known.past.history), known.is_fresh) == ([], False)

    asyncio.run(run())


def test_the_store_tells_of_an_erasure_that_nobody_else_told_of(tmp_path: Path) -> None:
    async def run() -> None:
        async with replica(tmp_path) as one, replica(tmp_path) as other:
            await one.check_health()
            await other.erase_user("ann")
            await other.add_events(NewEvent(user_id="ann", item_id="i2"))
            assert await one.consumed("ann") == [1]
            assert await one.consumed("ann", is_up=False) == []

    asyncio.run(run())


def test_a_log_line_names_an_erased_user_as_the_tombstone_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SECRET", "a secret of some length")

    async def run(**events: Any) -> None:
        serving = bundle(["ann"], **events)
        user = pseudonym("ann", read_key(serving.config.events))
        async with replica(tmp_path, serving) as one:
            for ask in (
                one.known(serving, "ann", 5.0),
                one.user_events("ann"),
                one.erase_user("ann"),
            ):
                record = RequestRecord("POST /v1/recommendations", "r1")
                CURRENT.set(record)
                await ask
                assert record.user == user
                assert f'"user":"{user_digest(user)}"' in line_of(record)
            assert user_digest(user) in await one.store.erasures()

    asyncio.run(run(pseudonym_key="SHOP_SECRET"))
    asyncio.run(run())


def test_a_store_of_a_newer_version_is_unavailable_and_says_why(tmp_path: Path) -> None:
    async def run() -> None:
        await make_newer(tmp_path)
        async with replica(tmp_path) as one:
            unavailable = AvailabilityBatch.model_validate(
                {"items": [{"item_id": "i1", "available": False}]}
            )
            one.items = ItemFollower(
                ItemLog(one.store), cast(Any, SimpleNamespace(changes=NO_CHANGES))
            )
            for ask in (
                one.user_events("ann"),
                one.erase_user("ann"),
                one.put_availability(unavailable),
            ):
                with pytest.raises(ApiError, match="newer heliograph") as refused:
                    await ask
                assert refused.value.status == 503
                assert refused.value.detail.code == "store_unavailable"

    asyncio.run(run())


def test_an_export_that_is_broken_keeps_no_replica_from_forgetting(tmp_path: Path) -> None:
    exported, well = tmp_path / "exported", tmp_path / "well"

    async def run() -> None:
        async with replica(tmp_path) as one, replica(tmp_path) as other:
            one.others = [other]
            await other.check_health()
            for number in range(3):
                await one.store.append([[event(number)]])
                for folder in (exported, well):
                    await export_events(one.store, folder)
            broken = parts(exported)[1]
            whole = broken.read_bytes()
            broken.write_bytes(whole[:100])
            with pytest.raises(ApiError) as refused:
                await one.erase_user("ann")
            assert (refused.value.status, refused.value.detail.code) == (503, "exports_not_erased")
            assert str(broken) in str(refused.value) and "move the folder" in str(refused.value)
            # everything else is done
            assert await other.consumed("ann", is_up=False) == []
            assert await one.store.page("ann", 0, 9) == []
            assert read_parts(well, EVENTS).num_rows == 0
            assert [pq.read_metadata(parts(exported)[n]).num_rows for n in (0, 2)] == [0, 0]
            broken.write_bytes(whole)  # put right, the same request finishes it
            receipt = await one.erase_user("ann")
            assert receipt.exported_events[str(exported)] == 1
            assert read_parts(exported, EVENTS).num_rows == 0

    asyncio.run(run())
