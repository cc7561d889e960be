"""What the ingress keeps of its requests, and hands to Ray's metrics and the log once a second.

Recording a value with Ray takes several microseconds and a line of a log as much, so a request only
leaves its record, and the records of a second are added up and written in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from heliograph_serve.exporter import Exporter
from heliograph_serve.request_log import RequestLog, line_of
from heliograph_serve.request_record import RequestRecord
from heliograph_serve.tally import Tally

EXPORT_EVERY_S = 1.0
FAILURE_FROM = 400
"""Statuses from here on leave a line in the log, whatever the share."""

logger = logging.getLogger("ray.serve")


class Watch:
    """Keeps the requests of the last second."""

    def __init__(self, log_share: float) -> None:
        self._log_share = log_share
        self._over: list[RequestRecord] = []

    def note(self, record: RequestRecord) -> None:
        """Take a request that is over."""
        record.ended = time.time()
        record.ms = (time.perf_counter() - record.started) * 1000
        self._over.append(record)

    def take(self) -> list[RequestRecord]:
        """Return the requests since the last call."""
        taken, self._over = self._over, []
        return taken

    def lines(self, records: Iterable[RequestRecord]) -> list[str]:
        """Return what the request log gets of requests: all that failed, a share of the others."""
        return [
            line_of(record)
            for record in records
            if record.status >= FAILURE_FROM or random.random() < self._log_share
        ]

    @asynccontextmanager
    async def exporting(self, under_way: Callable[[], int]) -> AsyncIterator[None]:
        """Export once a second for as long as the block runs, and at its end."""
        exporter, log = Exporter(), RequestLog.of_this_replica()

        def export(records: list[RequestRecord]) -> None:
            exporter.export(Tally(records), under_way())
            log.write(self.lines(records))

        async def run() -> None:
            while True:
                await asyncio.sleep(EXPORT_EVERY_S)
                try:
                    await asyncio.to_thread(export, self.take())
                except Exception:  # a full disk, say: metrics must not take the requests along
                    logger.exception("metrics and request log could not be written")

        task = asyncio.create_task(run())
        try:
            yield
        finally:
            task.cancel()
            export(self.take())
