"""A process that is killed while it writes events."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from stores import opened

BATCH = 50
ACKNOWLEDGED = 5
"""Batches that are waited for before the process is killed."""

WRITER = f"""
import asyncio, sys
from heliograph.event_store.event import Event
from heliograph.event_store.store import EventStore

async def write():
    store = EventStore(sys.argv[1])
    for batch in range(10_000):
        await store.append([[
            Event(f"b{{batch}}-{{n}}", f"u{{n}}", "i", batch, "view", None) for n in range({BATCH})
        ]])
        print(batch, flush=True)

asyncio.run(write())
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.cluster)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.sqlite"
    return str(request.getfixturevalue("postgres_url"))


def test_after_a_kill_acknowledged_events_are_there_once_and_batches_whole(url: str) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(ACKNOWLEDGED)]
    time.sleep(random.random() / 100)  # into another moment of the next batch each time
    writer.send_signal(signal.SIGKILL)
    acknowledged += map(int, writer.stdout.read().split())
    assert writer.wait() == -signal.SIGKILL

    async def read() -> Counter[str]:
        async with opened(url) as store:
            rows = await store.rows(0, await store.watermark(), 1_000_000)
            return Counter(row.event.event_id for row in rows)

    kept = asyncio.run(read())
    assert set(kept.values()) == {1}
    batches = Counter(event_id.partition("-")[0] for event_id in kept)
    assert set(batches.values()) == {BATCH}  # the last one too, which nobody was told of
    assert {f"b{batch}" for batch in acknowledged} <= set(batches)
