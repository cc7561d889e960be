"""The changes of items in the store: the same promises on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pyarrow as pa
import pytest

from heliograph.config import ItemsConfig
from heliograph.event_store.changed_items import export_changed, read_changed
from heliograph.event_store.item_log import ItemLog, ItemUpdate
from heliograph.item_changes import NO_CHANGES, ItemState
from stores import opened


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.cluster)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.sqlite"
    return str(request.getfixturevalue("postgres_url"))


def with_columns(item: str, columns: str = "{}", available: bool = True) -> ItemUpdate:
    return ItemUpdate(item, available, columns, f"text of {item}", "encoder", b"\x00\x01")


def test_the_latest_state_of_each_item_comes_back_in_order(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            log = ItemLog(store)
            first = await log.write([with_columns("b"), with_columns("a\u2603'; --")])
            assert (first.change, first.before) == (1, {})
            second = await log.write([ItemUpdate("c", False), ItemUpdate("b", False)])
            assert second.change == 2 and set(second.before) == {"b"}
            ids = [state.item_id for state in await log.after(0)]
            assert ids[0] == "a\u2603'; --" and sorted(ids[1:]) == ["b", "c"]
            (kept,) = [state for state in await log.after(1) if state.item_id == "b"]
            assert kept == ItemState("b", False, 2, 0, "{}", "text of b", "encoder", b"\x00\x01")
            assert await log.after(2) == []

    asyncio.run(run())


def test_a_change_that_changes_nothing_has_no_number(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            log = ItemLog(store)
            await log.write([with_columns("a")])
            again = await log.write([with_columns("a")])
            assert (again.change, again.before["a"].change) == (1, 1)
            assert (await log.write([])).change == 1
            assert (await log.write([with_columns("a", available=False)])).change == 2

    asyncio.run(run())


def test_an_item_gets_its_place_when_its_columns_come(url: str) -> None:
    async def run() -> None:
        async with opened(url) as store:
            log = ItemLog(store)
            await log.write([ItemUpdate("late", False)])
            await log.write([with_columns("early")])
            await log.write([with_columns("late", available=False)])
            places = {state.item_id: state.place for state in await log.after(0)}
            assert places == {"early": 0, "late": 1}

    asyncio.run(run())


def test_two_who_write_at_once_leave_no_gap_behind_a_reader(url: str) -> None:
    async def run() -> None:
        async with opened(url) as one, opened(url) as two, opened(url) as reader:
            seen = NO_CHANGES

            async def write(store_log: ItemLog, name: str) -> None:
                for number in range(15):
                    await store_log.write([with_columns(f"{name}{number}"), with_columns("both")])

            writing = asyncio.gather(write(ItemLog(one), "x"), write(ItemLog(two), "y"))
            numbered: dict[str, int] = {}
            while True:
                over = writing.done()
                seen = seen.followed_by(await ItemLog(reader).after(seen.change))
                places = {s.item_id: s.place for s in seen.states.values()}
                assert sorted(places.values()) == list(range(len(places)))  # type: ignore[type-var]
                assert all(places[item] == place for item, place in numbered.items())
                numbered = places  # type: ignore[assignment]
                if over:
                    break
                await asyncio.sleep(0.001)
            await writing
            assert len(seen.states) == 31

    asyncio.run(run())


def test_what_was_changed_is_read_by_a_build(url: str, tmp_path: Path) -> None:
    config = ItemsConfig(path="i", format="csv", item_id="sku", title="name", categories="job")
    schema = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("price", pa.float64())])
    path = tmp_path / "changed.jsonl"

    async def run() -> None:
        async with opened(url) as store:
            log = ItemLog(store)
            row = '{"name": "Z\\u2603", "price": 3}'
            await log.write([ItemUpdate("z", True, row), ItemUpdate("gone", False)])
            await log.write([ItemUpdate("a", False, '{"price": 2.5}')])
            await log.write([ItemUpdate("z", True, '{"name": "Zither", "price": 4}')])
        assert await export_changed(url, config, path) == 2

    asyncio.run(run())
    assert [json.loads(line)["sku"] for line in path.read_text().splitlines()] == ["z", "a"]
    assert read_changed(path, config, schema).to_pylist() == [
        {"item_id": "z", "title": "Zither", "price": 4.0},
        {"item_id": "a", "title": "a", "price": 2.5},
    ]
