"""Events out of the store, into Parquet for the next training.

Incremental: the parts in the folder say how far the export has come. A part covers a range of
positions that is closed, and appears whole, so no row is lost or repeated whenever this is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from heliograph.config import HeliographConfig
from heliograph.event_store.engine import DEFAULT_FILE, store_url
from heliograph.event_store.store import EventStore, Stored
from heliograph.events import EVENTS
from heliograph.feedback_files import (
    Erasures,
    holds_anything,
    last_position,
    obey_erasures,
    only_writer,
    write_part,
)
from heliograph.workspace import InputError

EVENTS_A_PART = 100_000
FEEDBACK_FOLDER = "feedback"
"""Of the workspace: what builds read."""

ERASER = ThreadPoolExecutor(1, thread_name_prefix="erasing")
"""Waits for exports and builds that hold a folder, and keeps no other work of a replica waiting."""


@dataclass(frozen=True)
class Exported:
    """What one export did."""

    folder: Path
    events: int
    """Written this time."""

    position: int
    """In the store, up to which everything is exported."""

    erased: int
    """Removed from earlier parts, because their users have been erased."""


async def export_events(
    store: EventStore, folder: Path, events_a_part: int = EVENTS_A_PART
) -> Exported:
    """Write what the folder does not have yet, and take out of it who has been erased.

    Args:
        store: To read from.
        folder: Gets `events-<first>-<last>.parquet` in the schema of events, and the erasures.
        events_a_part: Rows of a file, at most.

    Raises:
        InputError: The folder was exported from another store.
    """
    folder = folder.resolve()
    with only_writer(folder):
        # before any row is here: erasures look for the folder from now on
        await store.add_export_folder(str(folder))
        upto, after = await store.watermark(), last_position(folder)
        if after > upto:
            raise InputError(
                f"{folder} holds events up to position {after}, but the store has come to {upto} "
                "only: it is another store, or one restored from a backup; move the folder away, "
                "and everything is exported anew"
            )
        written = 0
        while rows := await store.rows(after, upto, events_a_part):
            write_part(as_table(rows), after + 1, rows[-1].position, folder)
            after = rows[-1].position
            written += len(rows)
        # read last: who was erased while rows were on their way is taken out again here
        erased = obey_erasures(await store.erasures(), folder)
    return Exported(folder, written, after, erased)


async def erase_from_exports(store: EventStore, erased: Erasures) -> dict[str, int | None]:
    """Take erased users out of every folder that events were exported to.

    Returns:
        Folder -> events erased; None where the folder cannot be reached from here, so that it is
        left to the next export or build there.

    Raises:
        InputError: A file is broken; all others have been dealt with.
    """
    found: dict[str, int | None] = {}
    problems = []
    for folder in await store.export_folders():
        try:
            found[folder] = await asyncio.get_running_loop().run_in_executor(
                ERASER, _erase_from, Path(folder), erased
            )
        except (InputError, OSError) as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
    return found


def fetch_feedback(config: HeliographConfig) -> Path | None:
    """Export what has been heard since the last build; returns the folder, None if it is empty.

    Raises:
        InputError: The store has been migrated by a newer heliograph, or the workspace holds
            events of another store.
    """
    if not config.events.feedback:
        return None
    folder, bundles = config.workspace / FEEDBACK_FOLDER, config.workspace / "bundles"
    if config.serve.store is not None or (bundles / DEFAULT_FILE).is_file():
        asyncio.run(export_once(store_url(config.serve, bundles), folder))
    return folder if holds_anything(folder) else None


async def export_once(url: str, folder: Path) -> Exported:
    """Export from the store at a URL."""
    store = EventStore(url)
    try:
        return await export_events(store, folder)
    finally:
        await store.close()


def as_table(rows: Sequence[Stored]) -> pa.Table:
    """Return stored events in the schema of clean events."""
    kept = [row.event for row in rows]
    columns = [
        [event.event_id for event in kept],
        [event.user_id for event in kept],
        [event.item_id for event in kept],
        pa.array([event.time_us for event in kept], pa.int64()),
        [event.type for event in kept],
        pa.array([event.value for event in kept], pa.float64()),
    ]
    return pa.table(columns, EVENTS.names).cast(EVENTS)


def _erase_from(folder: Path, erased: Erasures) -> int | None:
    if not folder.is_dir():
        return None
    with only_writer(folder):
        return obey_erasures(erased, folder)
