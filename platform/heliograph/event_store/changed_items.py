"""Items that were changed online, out of the store and into the next build."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pyarrow as pa

from heliograph.config import HeliographConfig, ItemsConfig
from heliograph.event_store.engine import DEFAULT_FILE, store_url
from heliograph.event_store.item_log import ItemLog
from heliograph.event_store.store import EventStore
from heliograph.item_columns import ItemColumns

CHANGED_FILE = "changed_items.jsonl"
"""In the workspace: what builds read."""


def store_of(config: HeliographConfig) -> str | None:
    """Return where a configuration's events and items are kept; None: nothing was ever kept."""
    bundles = config.workspace / "bundles"
    if config.serve.store is None and not (bundles / DEFAULT_FILE).is_file():
        return None
    return store_url(config.serve, bundles)


def fetch_changed(config: HeliographConfig) -> Path | None:
    """Export the items that were changed online; returns the file, None if there are none.

    Raises:
        InputError: The store has been migrated by a newer heliograph.
    """
    if not config.events.feedback:
        return None
    url, path = store_of(config), config.workspace / CHANGED_FILE
    if url is not None:
        config.workspace.mkdir(parents=True, exist_ok=True)
        asyncio.run(export_changed(url, config.items, path))
    return path if path.is_file() and path.stat().st_size else None


async def export_changed(url: str, items: ItemsConfig, path: Path) -> int:
    """Write a line of JSON for each item, in the order in which they first came.

    Returns:
        Items written: those of which columns came, not those that are just unavailable.
    """
    store = EventStore(url)
    try:
        states = await ItemLog(store).after(0)
    finally:
        await store.close()
    changed = sorted(
        (state.place, state.item_id, state.columns)
        for state in states
        if state.place is not None and state.columns is not None
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w") as file:
        for _, item_id, columns in changed:
            file.write(json.dumps({items.item_id: item_id} | json.loads(columns)) + "\n")
    draft.replace(path)
    return len(changed)


def read_changed(path: Path, config: ItemsConfig, schema: pa.Schema) -> pa.Table:
    """Read what `export_changed` wrote, cleaned into the schema of a catalogue."""
    with path.open() as file:
        rows = [json.loads(line) for line in file]
    ids = [row.pop(config.item_id) for row in rows]
    return ItemColumns(config, schema).clean(ids, rows)
