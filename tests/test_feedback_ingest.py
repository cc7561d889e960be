"""What the store has heard reaches the next build, and what it has erased does not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from heliograph.catalog import read_items
from heliograph.config_file import load_config
from heliograph.event_store.engine import store_url
from heliograph.event_store.event import NewEvent, kept_as
from heliograph.events import DISLIKED_FILE, read_disliked, read_events
from heliograph.pseudonyms import pseudonym, read_key
from small_shop import STEPS, build_shop, item_id, write_shop
from stores import opened

pytestmark = pytest.mark.cluster


@pytest.fixture
def shop(ray_cluster: None, tmp_path: Path) -> Path:
    return write_shop(tmp_path)


def hear(shop: Path, *events: dict[str, Any], erased: str | None = None) -> None:
    """Put events into the store of a shop, as its graph would."""
    config = load_config(shop)
    bundles = config.workspace / "bundles"
    bundles.mkdir(parents=True, exist_ok=True)
    key = read_key(config.events)
    kept = [kept_as(NewEvent.model_validate(event), config.events, key, 0) for event in events]

    async def run() -> None:
        async with opened(store_url(config.serve, bundles)) as store:
            await store.append([kept])
            if erased is not None:
                await store.erase(pseudonym(erased, key), until_us=2_000_000_000_000)

    asyncio.run(run())


def histories(shop: Path) -> dict[str, list[str]]:
    workspace = shop.parent / "workspace"
    catalogue = read_items(workspace / "items")
    read = read_events(workspace / "events", catalogue)
    return {
        user: [catalogue.ids[row] for row in history]
        for user, history in zip(read.user_ids, read.histories(), strict=True)
    }


def test_the_next_build_learns_from_what_was_heard(shop: Path) -> None:
    build_shop(shop, until="ingest")
    before = histories(shop)
    hear(
        shop,
        {"user_id": "user-3", "item_id": item_id(30), "timestamp": 2_000_000},
        {"user_id": "newcomer", "item_id": item_id(1), "timestamp": 2_000_000, "event_id": "x"},
        {"user_id": "user-4", "item_id": item_id(4), "timestamp": 1_000_000},  # as in the file
        {"user_id": "user-5", "item_id": item_id(9), "timestamp": 2_000_000, "type": "dislike"},
        {"user_id": "user-5", "item_id": item_id(8), "timestamp": 2_000_000, "type": "impression"},
        {"user_id": "user-6", "item_id": "not yet", "timestamp": 2_000_000},
    )
    results = build_shop(shop, until="ingest")
    assert not results[-1].reused
    assert results[-1].counts["disliked"] == results[-1].counts["ignored"] == 1
    assert results[-1].counts["rejected"] == 2
    after = histories(shop)
    assert after["user-3"] == [*before["user-3"], item_id(30)]
    assert after["newcomer"] == [item_id(1)]
    assert {user: after[user] for user in ("user-4", "user-5", "user-6")} == {
        user: before[user] for user in ("user-4", "user-5", "user-6")
    }
    workspace = shop.parent / "workspace"
    disliked = read_disliked(workspace / "events", read_items(workspace / "items"))
    assert (disliked.user_ids, disliked.items.tolist()) == (["user-5"], [9])
    assert build_shop(shop, until="ingest")[-1].reused


def test_a_store_that_has_heard_nothing_changes_nothing(shop: Path) -> None:
    build_shop(shop, until="ingest")
    hear(shop)
    assert all(result.reused for result in build_shop(shop, until="ingest"))


def test_the_next_build_obeys_erasures(shop: Path) -> None:
    build_shop(shop, until="ingest")
    hear(
        shop,
        {"user_id": "user-7", "item_id": item_id(30), "timestamp": 2_000_000},
        erased="user-7",
    )
    results = build_shop(shop, until="ingest")
    assert results[-1].counts["erased"] == STEPS
    assert "user-7" not in histories(shop)
    for file in (shop.parent / "workspace").rglob("*.parquet"):
        table = pq.read_table(file)
        if "user_id" in table.column_names:
            assert "user-7" not in table["user_id"].to_pylist(), file
    hear(shop, {"user_id": "user-7", "item_id": item_id(2), "timestamp": 2_000_001})
    build_shop(shop, until="ingest")
    assert histories(shop)["user-7"] == [item_id(2)]


def test_a_build_can_leave_out_what_was_heard(shop: Path) -> None:
    hear(shop, {"user_id": "newcomer", "item_id": item_id(1), "timestamp": 2_000_000})
    raw = yaml.safe_load(shop.read_text())
    raw["events"]["feedback"] = False
    shop.write_text(yaml.safe_dump(raw))
    build_shop(shop, until="ingest")
    assert "newcomer" not in histories(shop)


def test_pseudonyms_are_the_same_in_files_and_in_the_store(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = yaml.safe_load(shop.read_text())
    raw["events"]["pseudonym_key"] = "SHOP_SECRET"
    shop.write_text(yaml.safe_dump(raw))
    with (shop.parent / "events.csv").open("a") as events:
        events.write("user-3,no such item,1000000\n")
    monkeypatch.setenv("SHOP_SECRET", "the secret of the small shop")
    hear(shop, {"user_id": "user-3", "item_id": item_id(30), "timestamp": 2_000_000})
    build_shop(shop, until="ingest")
    known = pseudonym("user-3", read_key(load_config(shop).events))
    assert len(histories(shop)[known]) == STEPS + 1
    workspace = shop.parent / "workspace"
    assert not (workspace / "events" / DISLIKED_FILE).exists()
    for file in workspace.rglob("*"):
        if file.is_file():
            assert b"user-3" not in file.read_bytes(), file
            assert b"the secret of" not in file.read_bytes(), file
    monkeypatch.setenv("SHOP_SECRET", "another secret of the shop")
    assert not build_shop(shop, until="ingest")[-1].reused
