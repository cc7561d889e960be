"""JSON lines -> the events endpoint, so that whatever consumes a queue can be piped in.

Every line is delivered at least once and counts once: lines go through the endpoint, so there is
one way in and one check; what was acknowledged is noted after the acknowledgement; and a line must
hold an id or a time, by which the store knows it again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heliograph import client
from heliograph.client import EndpointError, EndpointUnavailable
from heliograph.event_store.event import NewEvent
from heliograph.workspace import InputError, write_json

READ_BYTES = 256 * 1024
MAX_LINE_BYTES = 1 << 20
LOOK_AGAIN_S = 0.2
"""Time between two looks at a file that has not grown."""

LONGEST_PAUSE_S = 10.0
STANDARD_INPUT = Path("-")


@dataclass
class Imported:
    """What has become of the lines so far."""

    new: int = 0
    repeated: int = 0
    erased: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Line:
    """One line and where the next one begins."""

    text: bytes
    end: int
    """Bytes from the start of the file to behind the line."""


class Importer:
    """Sends lines in batches and notes how far it has come."""

    def __init__(
        self, url: str, offsets: Path | None, rejected: Path, batch: int, give_up_s: float
    ) -> None:
        """Prepare to send.

        Args:
            url: Of the graph.
            offsets: File that remembers the place in the input; None for standard input.
            rejected: Gets a JSON line for every line that is no event, with the reason.
            batch: Events in one request, at most.
            give_up_s: Time after which an endpoint that does not answer is an error.
        """
        self.url = url
        self.offsets = offsets
        self.rejected = rejected
        self.batch = batch
        self.give_up_s = give_up_s
        self.done = Imported()

    def run(self, source: Path, follow: bool) -> Imported:
        """Send every line of a file or of standard input; with `follow`, also those to come.

        Raises:
            InputError: There is no such file.
            EndpointError: The endpoint does not answer for too long, or refuses every event.
        """
        if source == STANDARD_INPUT:
            self._send_all(blocks(0, follow=False, start=0), None)
            return self.done
        if not source.is_file():
            raise InputError(f"no file at {source}; pass a file of JSON lines, or - for a pipe")
        file = os.open(source, os.O_RDONLY)
        try:
            identity = os.fstat(file).st_ino
            start = self._resume(identity, os.fstat(file).st_size)
            os.lseek(file, start, os.SEEK_SET)
            self._send_all(blocks(file, follow, start), identity)
        finally:
            os.close(file)
        return self.done

    def _send_all(self, read: Iterator[list[Line]], identity: int | None) -> None:
        for lines in read:
            for start in range(0, len(lines), self.batch):
                some = lines[start : start + self.batch]
                self._send([event for line in some if (event := self._event(line.text))])
                if self.offsets is not None and identity is not None:
                    write_json(self.offsets, {"file": identity, "offset": some[-1].end})

    def _resume(self, identity: int, size: int) -> int:
        """Return the noted place in the input; the start, if it is another file by now."""
        if self.offsets is None or not self.offsets.is_file():
            return 0
        noted = json.loads(self.offsets.read_text())
        is_same = noted["file"] == identity and noted["offset"] <= size
        return int(noted["offset"]) if is_same else 0

    def _event(self, text: bytes) -> dict[str, Any] | None:
        """Return the event in a line, or None after writing down why there is none."""
        if not text.strip():
            return None
        try:
            content = json.loads(text)
            event = NewEvent.model_validate(content)
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            self._reject(text, f"{field}: {message}" if field else message)
        except ValueError as error:
            self._reject(text, f"not JSON: {error}")
        else:
            if event.event_id is not None or event.timestamp is not None:
                return dict(content)
            self._reject(text, "neither event_id nor timestamp: sent twice it would count twice")
        return None

    def _send(self, events: Sequence[dict[str, Any]]) -> None:
        if not events:
            return
        try:
            answer = self._patiently(events)
        except EndpointError as error:
            if isinstance(error, EndpointUnavailable):
                raise
            if len(events) == 1:
                self._reject(json.dumps(events[0]).encode(), str(error))
                return
            middle = len(events) // 2  # the endpoint is stricter than we are: find the line
            self._send(events[:middle])
            self._send(events[middle:])
            return
        self.done.new += answer["new"]
        self.done.repeated += answer["repeated"]
        self.done.erased += answer["erased"]

    def _patiently(self, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Post events, again and again while the endpoint is away or overloaded."""
        give_up, pause = time.monotonic() + self.give_up_s, 0.1
        while True:
            try:
                return client.post_events(self.url, events)
            except EndpointUnavailable:
                if time.monotonic() + pause > give_up:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _reject(self, text: bytes, reason: str) -> None:
        self.done.rejected += 1
        with self.rejected.open("a", encoding="utf-8") as file:
            row = {"reason": reason, "line": text.decode("utf-8", "backslashreplace").rstrip("\n")}
            file.write(json.dumps(row) + "\n")


def blocks(file: int, follow: bool, start: int) -> Iterator[list[Line]]:
    """Yield the whole lines of a file descriptor as they come.

    What a pipe has is sent at once, and what came meanwhile together in the next block. At the end
    of the input a last line without a line break counts; with `follow` there is no end.

    Raises:
        InputError: A line is longer than a megabyte, or a file that is followed has shrunk.
    """
    rest, end = b"", start
    while True:
        read = os.read(file, READ_BYTES)
        *texts, rest = (rest + read).split(b"\n")
        lines = []
        for text in texts:
            end += len(text) + 1
            lines.append(Line(text, end))
        if lines:
            yield lines
        if len(rest) > MAX_LINE_BYTES:
            raise InputError(f"the line at byte {end} is longer than {MAX_LINE_BYTES} bytes")
        if not read and not follow:
            break
        if not read:
            if os.fstat(file).st_size < end + len(rest):
                raise InputError("the file has become shorter while it was followed; start again")
            time.sleep(LOOK_AGAIN_S)
    if rest:
        yield [Line(rest, end + len(rest))]
