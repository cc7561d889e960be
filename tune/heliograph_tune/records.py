"""What is written down of a search: a line when a trial is handed out, a line when it ends.

The journal is the truth: it is only ever appended to, and each line is on the disk before the
search goes on. `trials.parquet` is the same, laid out as a table.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError

from heliograph.config import Config
from heliograph.workspace import InputError
from heliograph_tune.disk import full, is_full
from heliograph_tune.distributions import Drawn

Phase = Literal["search", "repeat"]

State = Literal["done", "stopped", "cut", "known", "failed"]
"""How a trial ended: to its end; by the scheduler; out of time; not run because the same
configuration had been; with an error."""


class Member(Config):
    """Which part of a population's training a trial is."""

    generation: int
    """Counted from 1."""

    place: int
    """In the population, counted from 0."""

    parent: int | None = None
    """Number of the trial of the generation before that it goes on from."""


class Asked(Config):
    """A trial that was handed out."""

    event: Literal["asked"] = "asked"
    number: int
    phase: Phase = "search"
    repeats: int | None = None
    """Number of the trial whose configuration is run again with another seed."""

    seed: int
    settings: dict[str, Any]
    """What differs from the configuration that is searched; nothing in trial 0."""

    drawn: dict[str, Drawn] | None = None
    """The same as the searcher drew it; None where the searcher has no part in it."""

    attributes: dict[str, Any] = {}
    """What the searcher notes for itself."""

    rejected: tuple[dict[str, Drawn], ...] = ()
    """What was drawn before it and is no valid configuration; the searcher draws it less often."""

    member: Member | None = None
    """None in searches without a population, and for the configuration as it stands."""

    @property
    def told(self) -> dict[str, Any]:
        """The settings for people to read: of a member, without what all members have alike."""
        if self.member is None:
            return self.settings
        return {
            path: value
            for path, value in self.settings.items()
            if path not in ("train.patience", "train.max_minutes") and value != []
        }


class Step(Config):
    """What a trial reported on its way."""

    step: int
    values: dict[str, float]


Report = Callable[[Step], None]
"""Is told of every step of a trial; may end the trial by not returning."""


class Finished(Config):
    """A trial that has ended."""

    event: Literal["finished"] = "finished"
    number: int
    state: State
    metrics: dict[str, float] = {}
    steps: tuple[Step, ...] = ()
    seconds: float = 0
    """From its start to its end; of a trial that went on in another worker, in the last one."""

    cpus: float = 0
    gpus: float = 0
    node: str = ""
    """Ray's name of it."""

    error: str | None = None
    version: str
    """Of the code that ran it."""

    ended: str
    """ISO 8601, UTC."""

    spent_s: float
    """Of the budget's wall time, when the trial ended."""


class Over(Config):
    """A phase is over: there are no more trials of it to be handed out."""

    event: Literal["over"] = "over"
    phase: Phase


Event = Asked | Finished | Over
EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class Journal:
    """An open journal, to be appended to."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; half a line that a kill left at its end is cut off."""
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        content = path.read_bytes() if path.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._file, whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def append(self, event: Event) -> None:
        """Write a line and wait until it is on the disk.

        Raises:
            InputError: The disk is full or not writable. What was written before is there, and no
                part of the line.
        """
        line = event.model_dump_json().encode() + b"\n"
        end = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            if error.errno == errno.EINVAL:  # what has no disk behind it cannot be waited for
                return
            with suppress(OSError):  # whoever opens it next cuts half a line off
                os.ftruncate(self._file, end)
            if is_full(error):
                raise InputError(full(self.path, "the search stopped", error)) from error
            raise InputError(
                f"{self.path} cannot be written ({error.strerror}); go on with --resume when it "
                "can be: no finished trial is lost"
            ) from error


def read_journal(path: Path) -> Iterator[Event]:
    """Read what was written, if anything was; half a line at the end is left out.

    Raises:
        InputError: A line is damaged.
    """
    content = path.read_bytes() if path.is_file() else b""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            yield EVENTS.validate_json(line)
        except ValidationError as error:
            raise InputError(
                f"line {number} of {path} is damaged; delete it and go on with --resume: if it was "
                "the end of a trial, that runs again; if the beginning, another takes its place"
            ) from error


class Record:
    """All that is known of a search, from its journal.

    An end without its beginning, which was deleted because it was damaged, does not count.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.asked: dict[int, Asked] = {}
        self.finished: dict[int, Finished] = {}
        self.over: set[Phase] = set()
        for event in events:
            self.note(event)

    def note(self, event: Event) -> None:
        """Add an event."""
        match event:
            case Asked():
                self.asked[event.number] = event
            case Finished() if event.number in self.asked:
                self.finished[event.number] = event
            case Over():
                self.over.add(event.phase)

    @property
    def next_number(self) -> int:
        """The number of the next trial: none is used twice, also where one is missing."""
        return 1 + max(self.asked, default=-1)

    @property
    def open(self) -> list[Asked]:
        """Trials that were handed out and have not ended."""
        return [asked for number, asked in self.asked.items() if number not in self.finished]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be run."""
        return "repeat" in self.over

    @property
    def spent_s(self) -> float:
        """Wall time of the budget that is used up."""
        return max((finished.spent_s for finished in self.finished.values()), default=0.0)

    def of(self, phase: Phase) -> list[Asked]:
        """Return the finished trials of a phase, in order."""
        return [
            asked
            for number, asked in sorted(self.asked.items())
            if asked.phase == phase and number in self.finished
        ]

    def score(self, number: int, objective: str) -> float | None:
        """Return a trial's value of an objective; None where it has none."""
        finished = self.finished.get(number)
        if finished is None or finished.state == "failed":
            return None
        return finished.metrics.get(objective)


def key_of(settings: Mapping[str, Any], seed: int) -> str:
    """Return what two trials have in common that need not both be run."""
    return repr((sorted(settings.items(), key=lambda pair: pair[0]), seed))
