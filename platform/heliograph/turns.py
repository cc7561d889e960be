"""Whose turn it is to deploy: a lease on the disk, beside the deployments.

Each turn is a file, `deployments/turn-<number>`, made by a hard link: of all who want the number
behind the newest one, whoever makes it first has the turn, also when all of them found that of a
leader who had died. A number once made never has another owner and the newest is never removed, so
what is said too late, by whoever has lost the turn, is said of a number that nobody looks at.

The newest file is held while it is young. Nothing is read of it but its age, so it can be empty or
damaged and still ends in time. Ages are measured by the clocks of the nodes, which have to agree
within a few seconds, as NTP has them do: by as much as they differ, a leader that died is in the
way for longer, and one that lives may be taken for dead sooner. That costs its deployment and never
two at once: `write_deployment` refuses whoever comes second.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heliograph.deployments import FOLDER

BEAT_S, LEASE_S = 5.0, 30.0
"""Who has the turn says so at every beat; one that has died is in nobody's way for longer than the
lease."""

LONG_AGO = 0.0
"""Date of a file that says that the turn was given back."""

KEPT = 8
"""Numbers that stay behind the newest: a folder that is read while they are made shows one."""


@dataclass(frozen=True)
class Turn:
    """A turn that was taken, until it is given back or not kept for as long as the lease."""

    folder: Path
    number: int
    clock: Callable[[], float]

    def keep(self) -> bool:
        """Have it for another while; false if somebody else has had the turn since."""
        now = self.clock()
        with contextlib.suppress(FileNotFoundError):  # so late that it was removed
            os.utime(_path(self.folder, self.number), (now, now))
        return _newest(self.folder) == self.number

    def give_back(self) -> None:
        """Let the next one have it; if somebody has it already, so has the number for this."""
        _make(_path(self.folder, self.number + 1), LONG_AGO)


def take_turn(bundles: Path, clock: Callable[[], float] = time.time) -> Turn | None:
    """Take the turn to deploy one of the bundles; None: it is somebody else's.

    Args:
        bundles: Folder of the bundles; every graph that serves some of them takes turns there.
        clock: Tells the time of day in seconds.
    """
    folder = bundles / FOLDER
    folder.mkdir(exist_ok=True)
    newest = _newest(folder)
    if newest and _is_held(_path(folder, newest), clock()):
        return None
    number = newest + 1
    if not _make(_path(folder, number), clock()):
        return None
    if _newest(folder) != number:  # this took so long that the number had been made and removed
        return None
    _tidy(folder, number)
    return Turn(folder, number, clock)


def _is_held(path: Path, now: float) -> bool:
    """Tell whether a turn goes on; what is dated in the future was dated by no clock of use."""
    try:
        with path.open("rb") as file:  # opened, since over NFS a mere stat may be a minute old
            heard = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:  # removed, so there are newer ones, which `take_turn` finds
        return False
    return abs(now - heard) < LEASE_S


def _make(path: Path, date: float) -> bool:
    """Make a file of a date, at once; false if there is one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".draft-") as draft:
        os.fchmod(draft.fileno(), 0o644)  # whoever serves on another node reads it
        os.utime(draft.fileno(), (date, date))
        try:
            os.link(draft.name, path)
        except FileExistsError:
            return False
    return True


def _tidy(folder: Path, newest: int) -> None:
    for number in _numbers(folder):
        if number < newest - KEPT:
            _path(folder, number).unlink(missing_ok=True)


def _newest(folder: Path) -> int:
    """Return the number that was made last, 0 where there is none."""
    return max(_numbers(folder), default=0)


def _numbers(folder: Path) -> list[int]:
    names = (re.fullmatch(r"turn-([0-9]+)", name) for name in os.listdir(folder))
    return [int(name[1]) for name in names if name]


def _path(folder: Path, number: int) -> Path:
    return folder / f"turn-{number:08}"
