"""The request log: one JSON object a line, of each request that is over.

It stands beside the replica's own log, in the folder of Serve's logs, and rotates like it. Lines
are written once a second in one go: what Serve's access log costs a line is a noticeable share
of a request here.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from ray import serve
from ray.serve._private.logging_utils import get_serve_logs_dir

from heliograph.feedback_files import user_digest
from heliograph_serve.request_record import RequestRecord

MAX_BYTES = 100 << 20
FILES_KEPT = 5
MAX_REQUEST_ID = 128
"""Characters of a request id, which a caller may choose, that are logged."""

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def line_of(record: RequestRecord) -> str:
    """Return the line of a request.

    Nothing in it can end the line or begin another field: JSON escapes control characters and all
    that is not ASCII.
    """
    fields: dict[str, str | int | float] = {
        "time": datetime.fromtimestamp(record.ended, UTC).isoformat(timespec="milliseconds"),
        "request_id": record.request_id[:MAX_REQUEST_ID],
        "route": record.route,
        "status": record.status,
        "ms": round(record.ms, 2),
    }
    if record.caller is not None:
        fields["key"] = record.caller
    if record.user is not None:
        fields["user"] = user_digest(record.user)
    if record.tier is not None:
        fields["tier"] = record.tier
    if record.experiment is not None:
        fields["experiment"], fields["arm"] = record.experiment
    return _encode(fields)


class RequestLog:
    """A file of lines."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=FILES_KEPT)

    @classmethod
    def of_this_replica(cls) -> RequestLog:
        """Open the log of the replica that this process is."""
        replica = serve.get_replica_context().replica_id
        name = f"requests_{replica.deployment_id.app_name}_{replica.unique_id}_{os.getpid()}.jsonl"
        return cls(Path(get_serve_logs_dir()) / name)

    def write(self, lines: Sequence[str]) -> None:
        """Append lines."""
        if lines:
            text = "\n".join(lines)
            self._handler.emit(logging.makeLogRecord({"msg": text, "args": None}))
