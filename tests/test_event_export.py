"""Events out of the store, for the next training."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heliograph.event_store.exporting import erase_from_exports, export_events
from heliograph.event_store.store import EventStore
from heliograph.events import EVENTS
from heliograph.feedback_files import (
    fingerprint,
    is_erased,
    last_position,
    only_writer,
    parts,
    read_erasures,
    read_parts,
    user_digest,
)
from heliograph.workspace import InputError
from stores import event, opened


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.cluster)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.sqlite"
    return str(request.getfixturevalue("postgres_url"))


def exported_ids(folder: Path) -> list[str]:
    return list(read_parts(folder, EVENTS)["event_id"].to_pylist())


def test_an_export_writes_what_the_folder_lacks(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "exported"

    async def run() -> None:
        async with opened(url) as store:
            await store.append([[event(number) for number in range(7)]])
            assert (await export_events(store, folder, events_a_part=3)).events == 7
            assert len(parts(folder)) == 3
            assert (await export_events(store, folder)).events == 0
            await store.append([[event(7, kind="like")]])
            assert (await export_events(store, folder)).events == 1

    asyncio.run(run())
    assert sorted(exported_ids(folder)) == [f"e{number}" for number in range(8)]
    assert read_parts(folder, EVENTS).schema == EVENTS


def test_an_export_that_was_cut_off_goes_on_where_it_was(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "exported"

    async def run() -> None:
        async with opened(url) as store:
            await store.append([[event(number) for number in range(9)]])
            await export_events(store, folder, events_a_part=4)
            parts(folder)[-1].unlink()  # it was killed before the last file had its name
            (folder / ".events-000000000000009.parquet.draft").write_bytes(b"half a fi")
            assert (await export_events(store, folder)).events == 1

    asyncio.run(run())
    assert sorted(exported_ids(folder)) == [f"e{number}" for number in range(9)]


def test_no_event_is_lost_to_an_export_while_others_write(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "exported"

    async def write(store: EventStore, start: int) -> None:
        for number in range(start, start + 100, 10):
            await store.append([[event(number + place) for place in range(10)]])

    async def export(store: EventStore, writers: list[asyncio.Task[None]]) -> None:
        while not all(writer.done() for writer in writers):
            await export_events(store, folder, events_a_part=7)
        await export_events(store, folder)

    async def run() -> None:
        async with opened(url) as one, opened(url) as two, opened(url) as third:
            await one.ready()
            writers = [
                asyncio.create_task(write(store, start)) for store, start in ((one, 0), (two, 100))
            ]
            await export(third, writers)

    asyncio.run(run())
    ids = exported_ids(folder)
    assert len(ids) == len(set(ids)) == 200


def test_an_erasure_reaches_what_was_exported(url: str, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "exported", tmp_path / "gone"
    everyone = [event(1), event(2, user="bob"), event(3)]

    async def run() -> None:
        async with opened(url) as store:
            await store.append([everyone])
            for target in (folder, elsewhere):
                await export_events(store, target, events_a_part=1)
            elsewhere.rename(tmp_path / "moved")
            erased = await store.erase("ann", until_us=2_000_000)
            found = await erase_from_exports(store, {user_digest("ann"): erased.until_us})
            assert found == {str(folder): 2, str(elsewhere): None}
            position = last_position(folder)
            assert (await export_events(store, folder)).position == position
            assert (await export_events(store, tmp_path / "moved")).erased == 2

    asyncio.run(run())
    for target in (folder, tmp_path / "moved"):
        assert exported_ids(target) == ["e2"]
        assert read_erasures(target) == {user_digest("ann"): 3_000_000}
        assert all(b"ann" not in file.read_bytes() for file in target.iterdir())


def test_erasures_that_wait_for_an_export_keep_nothing_else_waiting(tmp_path: Path) -> None:
    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        async with opened(f"sqlite:///{tmp_path}/events.sqlite") as store:
            await store.append([[event(1)]])
            await export_events(store, tmp_path / "exported")
            with only_writer(tmp_path / "exported"):
                erasing = [
                    asyncio.ensure_future(erase_from_exports(store, {user_digest("ann"): 1}))
                    for _ in range(4)
                ]
                await asyncio.sleep(0.1)
                async with asyncio.timeout(20):
                    assert await asyncio.to_thread(lambda: "at once") == "at once"
                assert not any(one.done() for one in erasing)
            await asyncio.gather(*erasing)

    asyncio.run(run())


def test_what_is_exported_changes_the_fingerprint(tmp_path: Path) -> None:
    async def run() -> list[str]:
        async with opened(f"sqlite:///{tmp_path}/events.sqlite") as store:
            seen = []
            for number in range(2):
                await store.append([[event(number)]])
                await export_events(store, tmp_path / "exported")
                seen.append(fingerprint(tmp_path / "exported"))
            await store.erase("nobody", until_us=1)
            await export_events(store, tmp_path / "exported")
            return [*seen, fingerprint(tmp_path / "exported")]

    assert len(set(asyncio.run(run()))) == 3


def test_a_row_is_erased_by_its_user_and_time() -> None:
    rows = pa.table(
        {
            "user_id": ["ann", "ann", None, "bob"],
            "timestamp": pa.array([1, 2, 1, 1], pa.timestamp("us", tz="UTC")),
        }
    )
    assert is_erased(rows, {user_digest("ann"): 1}).tolist() == [True, False, False, False]
    assert is_erased(rows.slice(2, 1), {user_digest("ann"): 1}).tolist() == [False]
    assert not is_erased(rows, {}).any()


def test_any_reader_of_parquet_finds_only_events_in_the_folder(tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path}/events.sqlite") as store:
            await store.append([[event(1)]])
            await store.erase("bob", until_us=5)
            await export_events(store, tmp_path / "exported")

    asyncio.run(run())
    assert (tmp_path / "exported" / "_erased.parquet").is_file()
    assert pq.read_table(tmp_path / "exported").num_rows == 1


def test_a_folder_of_another_store_is_not_added_to(url: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with opened(f"sqlite:///{tmp_path}/other.sqlite") as store:
            await store.append([[event(number) for number in range(5)]])
            await export_events(store, tmp_path / "exported")
        async with opened(url) as store:
            await store.append([[event(1)]])
            with pytest.raises(InputError, match="up to position 5, but the store has come to 1"):
                await export_events(store, tmp_path / "exported")

    asyncio.run(run())
