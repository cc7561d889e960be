"""JSON lines -> the events endpoint, so that whatever consumes a queue can be piped in.

Every line is delivered at least once and counts once: lines go through the endpoint, so there is
one way in and one check; what was acknowledged is noted after the acknowledgement; and a line must
hold an id or a time, by which the store knows it again.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heliograph import client
from heliograph.client import (
    EndpointError,
    EndpointUnavailable,
    RequestRefused,
    RequestTooLarge,
)
from heliograph.event_store.event import NewEvent
from heliograph.workspace import InputError, write_json

READ_BYTES = 256 * 1024
MAX_LINE_BYTES = 1 << 20
"""A longer line is no event, and is not kept in memory."""

KEPT_BYTES = 1000
"""Of such a line, to tell which one it was."""

LOOK_AGAIN_S = 0.2
"""Time between two looks at a file that has not grown."""

LINGER_S = 5.0
"""A file that was rotated is over when nobody has written to it for so long: who writes hears of
the rotation some time after it."""

LONGEST_PAUSE_S = 10.0
STANDARD_INPUT = Path("-")
HEAD_BYTES = 256
"""What a file begins with tells it from another one that got its inode."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")

logger = logging.getLogger(__name__)


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
    """All of it, or the beginning of one that is too long."""

    end: int
    """Bytes from the start of the file to behind the line."""

    is_whole: bool = True

    is_ended: bool = True
    """Whether a line break follows; the last line may have none."""


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
            EndpointError: The endpoint does not answer for too long, or with something that says
                nothing of the events; they are not noted as sent.
        """
        if source == STANDARD_INPUT:
            self._send_all(blocks(0), None, source)
            return self.done
        if not source.is_file():
            raise InputError(f"no file at {source}; pass a file of JSON lines, or - for a pipe")
        file, start = self._resume(source)
        while True:
            try:
                self._note(file, start)
                os.lseek(file, start, os.SEEK_SET)
                self._send_all(blocks(file, start, source if follow else None), file, source)
                finished = os.fstat(file)
            finally:
                os.close(file)
            if not follow and _is_at(source, finished) is not False:
                return self.done
            file, start = self._open_next(source, finished), 0

    def _send_all(self, read: Iterator[list[Line]], file: int | None, source: Path) -> None:
        for lines in read:
            if file is not None and _is_being_written(lines[-1], file, source):
                logger.warning("the last line of %s is not whole: left for the next time", source)
                return
            for start in range(0, len(lines), self.batch):
                some = lines[start : start + self.batch]
                self._send([event for line in some if (event := self._event(line))])
                if file is not None:
                    self._note(file, some[-1].end)

    def _note(self, file: int, offset: int) -> None:
        if self.offsets is not None:
            place = {"file": os.fstat(file).st_ino, "offset": offset, "head": _head(file, offset)}
            write_json(self.offsets, place)

    def _resume(self, source: Path) -> tuple[int, int]:
        """Open the file that was being sent, wherever it was moved to beside the source.

        Returns:
            File descriptor and the noted place in it; if it is gone, the source and its start.
        """
        if self.offsets is None or not self.offsets.is_file():
            return os.open(source, os.O_RDONLY), 0
        noted = _read_place(self.offsets)
        beside = os.scandir(source.parent)
        moved = [Path(one.path) for one in beside if one.inode() == noted["file"]]
        for path in (source, *moved):
            file, offset = os.open(path, os.O_RDONLY), noted["offset"]
            found = os.fstat(file)
            is_same = found.st_ino == noted["file"] and found.st_size >= offset
            if is_same and _head(file, offset) == noted["head"]:
                return file, offset
            os.close(file)
        logger.warning(
            "the file that %s speaks of is neither %s nor beside it: if it had lines behind byte "
            "%d, import them by themselves; beginning with %s at its start",
            *(self.offsets, source, noted["offset"], source),
        )
        return os.open(source, os.O_RDONLY), 0

    def _open_next(self, source: Path, finished: os.stat_result) -> int:
        """Open what was begun after a finished file: the oldest that was written to later.

        That is the source, but for rotations that nobody followed: `clicks.jsonl.1` comes first.
        """
        ours = {one.resolve() for one in (self.offsets, self.rejected, source) if one is not None}
        while True:
            try:
                later = {
                    path.stat().st_mtime_ns: path
                    for path in source.parent.glob(f"{glob.escape(source.name)}*")
                    if path.resolve() not in ours
                    and path.suffix not in COMPRESSED
                    and path.is_file()
                }
                rotated = [moment for moment in later if moment > finished.st_mtime_ns]
                return os.open(later[min(rotated)] if rotated else source, os.O_RDONLY)
            except FileNotFoundError:  # rotated at this moment
                time.sleep(LOOK_AGAIN_S)

    def _event(self, line: Line) -> dict[str, Any] | None:
        """Return the event in a line, or None after writing down why there is none."""
        text = line.text
        if not line.is_whole:
            self._reject(text, f"longer than {MAX_LINE_BYTES} bytes: this is how it begins")
            return None
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
        except (ValueError, RecursionError) as error:
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
        except (RequestRefused, RequestTooLarge) as error:
            self._send_in_parts(events, error)
            return
        except EndpointUnavailable:
            raise
        except EndpointError as error:
            raise EndpointError(
                f"{error}; that says nothing of the events, so none of them is set aside: put it "
                "right and start the import again, it goes on with them"
            ) from error
        self.done.new += answer["new"]
        self.done.repeated += answer["repeated"]
        self.done.erased += answer["erased"]

    def _send_in_parts(self, events: Sequence[dict[str, Any]], error: EndpointError) -> None:
        """Find the events that the endpoint does not take: it is stricter than we are."""
        if len(events) > 1:
            middle = len(events) // 2
            self._send(events[:middle])
            self._send(events[middle:])
        elif isinstance(error, RequestRefused):
            self._reject(json.dumps(events[0]).encode(), str(error))
        else:
            raise EndpointError(
                f"{error}; a single event is more than it takes: raise serve.limits.body_bytes, or "
                "the limit of what stands in front, and start the import again"
            ) from error

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


def blocks(file: int, start: int = 0, followed: Path | None = None) -> Iterator[list[Line]]:
    """Yield the whole lines of a file descriptor as they come.

    What a pipe has is sent at once, and what came meanwhile together in the next block. At the end
    of the input a last line without a line break counts. A file that is followed ends when another
    one has taken its path and nobody writes to it any more, or when it has become shorter.

    Args:
        file: To read from, at the place where it stands.
        start: That place, bytes from the start of the file.
        followed: Path of the file, if more is to come.
    """
    rest, end = b"", start
    dropped = 0  # bytes of the line that is being read
    replaced_at: float | None = None
    while True:
        read = os.read(file, READ_BYTES)
        *texts, rest = (rest + read).split(b"\n")
        lines = []
        for text in texts:
            end += dropped + len(text) + 1
            lines.append(_line(text, end, dropped))
            dropped = 0
        if lines:
            yield lines
        if dropped or len(rest) > MAX_LINE_BYTES:
            dropped += len(rest[KEPT_BYTES:])
            rest = rest[:KEPT_BYTES]
        if read:
            replaced_at = None
            continue
        if followed is None:
            break
        found = os.fstat(file)
        if found.st_size < end + dropped + len(rest):
            logger.warning("%s has become shorter: beginning at its start again", followed)
            break
        if _is_at(followed, found) is False:
            replaced_at = replaced_at or time.monotonic()
            if time.monotonic() - replaced_at >= LINGER_S:
                break
        time.sleep(LOOK_AGAIN_S)
    if rest:
        yield [replace(_line(rest, end + dropped + len(rest), dropped), is_ended=False)]


def _line(text: bytes, end: int, dropped: int) -> Line:
    if dropped or len(text) > MAX_LINE_BYTES:
        return Line(text[:KEPT_BYTES], end, is_whole=False)
    return Line(text, end)


def _is_at(path: Path, file: os.stat_result) -> bool | None:
    """Tell whether a file is the one at a path; None: there is none at the moment."""
    try:
        return os.path.samestat(path.stat(), file)
    except FileNotFoundError:
        return None


def _is_being_written(line: Line, file: int, source: Path) -> bool:
    """Tell whether the rest of a line may still come; a file that was rotated is over."""
    if line.is_ended or _is_at(source, os.fstat(file)) is False:
        return False
    try:
        json.loads(line.text)
    except (ValueError, RecursionError):
        return bool(line.text.strip())
    return False


def _read_place(path: Path) -> dict[str, Any]:
    try:
        noted = json.loads(path.read_text())
        return {"file": noted["file"], "offset": int(noted["offset"]), "head": noted.get("head")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not say how far an import has come; delete it, and the file is sent from "
            "its start: what comes twice counts once"
        ) from error


def _head(file: int, offset: int) -> str:
    begins = os.pread(file, min(offset, HEAD_BYTES), 0)
    return hashlib.blake2b(begins, digest_size=16).hexdigest()
