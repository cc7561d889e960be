"""The event store: the same promises on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from heliograph.event_store import engine
from heliograph.event_store.event import Event
from heliograph.event_store.item_log import ItemLog
from heliograph.event_store.queries import RECENT_EVENTS
from heliograph.event_store.schema import metadata
from heliograph.event_store.store import Appended
from heliograph.feedback_files import user_digest
from heliograph.workspace import InputError
from processes import descendants
from stores import event, happened, opened


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.cluster)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.sqlite"
    return str(request.getfixturevalue("postgres_url"))


def test_what_is_appended_is_heard_in_order_of_time(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            (kept,) = await store.append([[event(2), event(1), event(3, user="bob")]])
            assert kept == Appended(new=3, repeated=0, erased=0)
            ann, bob, nobody = await store.heard(["ann", "bob", "nobody"])
            assert ann.events == happened(event(1), event(2))
            assert bob.events == happened(event(3, user="bob"))
            assert (nobody.events, nobody.erased_us) == ([], None)

    asyncio.run(run())


def test_a_file_is_asked_at_once_a_server_is_not_and_both_know_the_same(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            assert store.heard_at_once("ann") is None  # its tables are not there yet
            await store.append([[event(2), event(1), event(3, user="bob")]])
            await store.erase("bob", 3_000_000)
            for user in ("ann", "bob", "nobody"):
                (heard,) = await store.heard([user])
                assert store.heard_at_once(user) == (None if "postgresql" in url else heard)

    asyncio.run(run())


def test_a_look_up_that_fails_is_an_error_and_the_next_begins_anew(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path}/events.sqlite") as store:
            await store.append([[event(1)]])
            before = store.heard_at_once("ann")
            with closing(sqlite3.connect(tmp_path / "events.sqlite")) as other:
                other.execute("ALTER TABLE events RENAME TO elsewhere")
                with pytest.raises(SQLAlchemyError):
                    store.heard_at_once("ann")
                other.execute("ALTER TABLE elsewhere RENAME TO events")
            assert before is not None
            assert store.heard_at_once("ann") == before

    asyncio.run(run())


def test_every_field_comes_back_as_it_went_in(url: str) -> None:
    odd = Event("id 'x\"", "Ünï;--", "日本", 1_700_000_000_123_456, "like", 0.1)

    async def run() -> None:
        async with opened(url) as store:
            await store.append([[odd]])
            assert (await store.heard([odd.user_id]))[0].events == happened(odd)
            assert [row.event for row in await store.page(odd.user_id, 0, 9)] == [odd]

    asyncio.run(run())


def test_an_event_that_comes_again_is_one_event(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            assert await store.append([[event(1), event(1), event(2)], [event(2)]]) == [
                Appended(new=2, repeated=1, erased=0),
                Appended(new=0, repeated=1, erased=0),
            ]
            assert await store.append([[event(2), event(3)]]) == [Appended(1, 1, 0)]
            assert len((await store.heard(["ann"]))[0].events) == 3

    asyncio.run(run())


def test_two_replicas_that_write_the_same_at_once_keep_it_once(url: str) -> None:
    batch = [event(number) for number in range(200)]

    async def run() -> None:
        async with opened(url) as one, opened(url) as two:
            kept = await asyncio.gather(
                one.append([batch]), two.append([batch[::-1]]), one.append([batch[50:]])
            )
            assert sum(answer.new for (answer,) in kept) == 200
            assert sum(answer.repeated for (answer,) in kept) == 350
            rows = await one.rows(0, await two.watermark(), 1000)
            assert Counter(row.event.event_id for row in rows) == {f"e{n}": 1 for n in range(200)}

    asyncio.run(run())


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    requests=st.lists(
        st.lists(st.builds(event, st.integers(0, 12), st.sampled_from(["ann", "bob"])), max_size=6),
        max_size=6,
    ),
    cuts=st.sets(st.integers(1, 5)),
)
def test_however_events_are_sent_each_is_there_once(
    url: str, requests: list[list[Event]], cuts: set[int]
) -> None:
    """Requests in groups, some of them sent twice; the first with an identifier counts."""

    async def run() -> None:
        async with opened(url) as store:
            await store.ready()
            async with store.engines.writing.begin() as connection:
                await connection.execute(text("DELETE FROM events"))
            edges = [0, *sorted(cuts), len(requests)]
            groups = [requests[a:b] for a, b in zip(edges, edges[1:], strict=False)]
            kept = [one for group in groups for one in await store.append(group)]
            assert sum(one.new + one.repeated for one in kept) == sum(map(len, requests))
            for group in groups:
                assert all(one.new == 0 for one in await store.append(group))
            first: dict[str, Event] = {}
            for request in requests:
                for one in request:
                    first.setdefault(one.event_id, one)
            for user, heard in zip(["ann", "bob"], await store.heard(["ann", "bob"]), strict=True):
                theirs = [one for one in first.values() if one.user_id == user]
                assert heard.events == happened(*sorted(theirs, key=lambda one: one.time_us))

    asyncio.run(run())


def test_a_look_up_returns_the_newest_events_of_each_user(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            many = [event(number) for number in range(RECENT_EVENTS + 5)]
            few = [event(5000, user="bob")]
            await store.append([many, few])
            ann, bob = await store.heard(["ann", "bob"])
            assert (ann.events, bob.events) == (happened(*many[5:]), happened(*few))

    asyncio.run(run())


def test_pages_follow_the_order_of_arrival(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            for number in (5, 3, 4, 1):
                await store.append([[event(number), event(100 + number, user="bob")]])
            first = await store.page("ann", after=0, limit=3)
            rest = await store.page("ann", after=first[-1].position, limit=3)
            assert [row.event.event_id for row in first + rest] == ["e5", "e3", "e4", "e1"]

    asyncio.run(run())


def test_an_erased_user_is_gone_and_does_not_come_back(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            await store.append([[event(1), event(2), event(3, user="bob")]])
            erased = await store.erase("ann", until_us=2_500_000)
            assert (erased.events, erased.until_us) == (2, 2_500_000)
            (ann,) = await store.heard(["ann"])
            assert (ann.events, ann.erased_us) == ([], 2_500_000)
            # sent again, as a queue does; and something that happened afterwards
            kept = await store.append([[event(1), event(2), event(9)]])
            assert kept == [Appended(new=1, repeated=0, erased=2)]
            assert (await store.heard(["ann"]))[0].events == happened(event(9))
            assert len((await store.heard(["bob"]))[0].events) == 1
            assert await store.erasures() == {user_digest("ann"): 2_500_000}
            await store.erase("bob", until_us=1)
            both = sorted(map(user_digest, ("ann", "bob")))
            assert await store.count_erased() == 2
            assert await store.erased("", 9) == both
            assert await store.erased(both[0], 9) == await store.erased(both[0], 1) == both[1:]

    asyncio.run(run())


def test_an_erasure_covers_events_of_a_clock_that_is_ahead(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            await store.append([[event(1), event(50)]])
            assert (await store.erase("ann", until_us=2_000_000)).until_us == 50_000_000
            assert await store.append([[event(50)]]) == [Appended(0, 0, 1)]
            assert (await store.erase("ann", until_us=60_000_000)).events == 0

    asyncio.run(run())


def test_a_second_erasure_takes_nothing_of_the_first_back(url: str) -> None:
    async def run() -> None:
        async with opened(url) as one, opened(url) as two:
            await one.append([[event(1), event(50)]])  # a clock that is ahead
            assert (await one.erase("ann", until_us=2_000_000)).until_us == 50_000_000
            assert (await one.erase("ann", until_us=3_000_000)).until_us == 50_000_000
            assert await one.append([[event(40), event(50)]]) == [Appended(0, 0, 2)]
            assert await one.erasures() == {user_digest("ann"): 50_000_000}
            later = await asyncio.gather(
                *(store.erase("ann", 60_000_000 + n) for n, store in enumerate([one, two] * 4))
            )
            assert max(erased.until_us for erased in later) == 60_000_007
            assert await two.erasures() == {user_digest("ann"): 60_000_007}

    asyncio.run(run())


def test_an_erasure_between_appends_leaves_nothing(url: str) -> None:
    """Whichever comes first, what is left is exactly what happened after the erased time."""

    async def run() -> None:
        async with opened(url) as one, opened(url) as two:
            await one.ready()
            everything = [event(number) for number in range(20)]
            erasure = asyncio.create_task(two.erase("ann", until_us=12_000_000))
            await asyncio.gather(
                *(one.append([[some]]) for some in everything[:10]),
                *(two.append([[some]]) for some in everything[10:]),
            )
            erased = await erasure
            (ann,) = await one.heard(["ann"])
            assert ann.erased_us == erased.until_us
            later = [some for some in everything if some.time_us > erased.until_us]
            assert ann.events == happened(*later)

    asyncio.run(run())


def test_many_replicas_can_start_at_once(url: str) -> None:
    async def start() -> None:
        async with opened(url) as store:
            await store.ready()

    async def run() -> None:
        await asyncio.gather(*(start() for _ in range(6)))

    asyncio.run(run())


def test_the_migrations_make_the_schema_that_the_code_names(url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async def run() -> None:
        async with opened(url) as store:
            await store.ready()
            async with store.engines.writing.connect() as connection:
                assert await connection.run_sync(differences) == []

    asyncio.run(run())


def test_a_store_of_a_newer_version_is_left_alone(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            await store.ready()
            async with store.engines.writing.begin() as connection:
                await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        async with opened(url) as store:
            with pytest.raises(InputError, match="9999"):
                await store.ready()

    asyncio.run(run())


def test_sqlite_syncs_every_commit(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path}/events.sqlite") as store:
            await store.ready()
            async with store.engines.writing.connect() as connection:
                for name, expected in (("journal_mode", "wal"), ("synchronous", 2)):
                    assert await connection.scalar(text(f"PRAGMA {name}")) == expected

    asyncio.run(run())


def test_what_is_erased_is_not_left_in_the_files_of_sqlite(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path}/events.sqlite") as store:
            await store.append([[event(number, user="somebody-rare") for number in range(300)]])
            await store.erase("somebody-rare", until_us=10**15)

    asyncio.run(run())
    for file in tmp_path.iterdir():
        assert b"somebody-rare" not in file.read_bytes(), file


@pytest.mark.cluster
def test_a_restart_of_the_database_costs_no_request(postgres_url: str, postgres: object) -> None:
    async def run() -> None:
        async with opened(postgres_url) as store:
            await store.append([[event(1)]])
            async with store.engines.writing.begin() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
            assert (await store.heard(["ann"]))[0].events == happened(event(1))
            assert await store.append([[event(2)]]) == [Appended(1, 0, 0)]

    asyncio.run(run())


@contextmanager
def stopped(postgres: str) -> Iterator[None]:
    """Stop every process of the server, so that it takes connections and answers nothing."""
    folder = Path(str(make_url(postgres).query["host"]))
    postmaster = int((folder / "postmaster.pid").read_text().split()[0])
    processes = [psutil.Process(postmaster), *descendants(postmaster)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # what served an earlier test may just end
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.mark.cluster
@pytest.mark.parametrize("is_used", [True, False])
def test_a_database_that_hangs_is_an_error_and_no_wait(
    postgres_url: str, postgres: str, monkeypatch: pytest.MonkeyPatch, is_used: bool
) -> None:
    monkeypatch.setattr(engine, "CONNECT_TIMEOUT_S", 1)
    monkeypatch.setattr(engine, "COMMAND_TIMEOUT_S", 1)

    async def run() -> None:
        async with opened(postgres_url) as store:
            if is_used:  # connections are there, and hang in the middle of a statement
                await store.append([[event(1)]])
                await store.heard(["ann"])
            with stopped(postgres):
                for _ in range(2):
                    started = time.monotonic()
                    failures = await asyncio.gather(
                        *(store.heard(["ann"]) for _ in range(10)),
                        *(store.append([[event(2)]]) for _ in range(10)),
                        store.erase("bob", 1),
                        store.page("ann", 0, 1),
                        ItemLog(store).after(0),
                        return_exceptions=True,
                    )
                    assert all(isinstance(one, OSError | SQLAlchemyError) for one in failures)
                    assert time.monotonic() - started < 10
            await store.append([[event(2)]])
            assert event(2).item_id in {
                one.item_id for one in (await store.heard(["ann"]))[0].events
            }

    asyncio.run(run())
