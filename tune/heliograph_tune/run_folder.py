"""The folder of a run: what was asked for, what came of it, and who is at work in it.

search.yaml      the search file, resolved: every default, absolute paths
config.yaml      the configuration that is searched, resolved
inputs.json      hashes of the data and models that the trials saw
journal.jsonl    what happened, a line at a time
trials.parquet   the same as a table
checkpoints/     of trials at work
bundles/         what trials of the running graph serve
promoted/        what `promote` built

Beside the runs, `fitted/` has the models that their trials stand on (`fitted.py`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from heliograph.config_file import ConfigError, dump_config, load_config
from heliograph.workspace import InputError, write_json
from heliograph_tune.disk import room_on_disk
from heliograph_tune.records import Record, read_journal
from heliograph_tune.search_file import Search, SearchConfig, parse_search

SEARCHES = "searches"
BUILDING = "building"
"""Beside the runs: whoever builds stages of the workspace holds its lock."""

SEARCH_FILE = "search.yaml"
CONFIG_FILE = "config.yaml"
INPUTS_FILE = "inputs.json"
DATA = ("items", "events")
"""Of the inputs, what everything is judged by."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps everything."""

    path: Path

    @property
    def journal(self) -> Path:
        """What happened."""
        return self.path / "journal.jsonl"

    def checkpoint(self, number: int) -> Path:
        """Return the folder that a trial writes its checkpoint to."""
        return self.path / "checkpoints" / f"{number:05d}"

    @property
    def config(self) -> Path:
        """The configuration as it stood."""
        return self.path / CONFIG_FILE

    @property
    def best(self) -> Path:
        """The configuration that won."""
        return self.path / "best.yaml"

    @property
    def bundles(self) -> Path:
        """What trials of the running graph serve, and the events that they would keep."""
        return self.path / "bundles"

    @property
    def promoted(self) -> Path:
        """What `promote` builds."""
        return self.path / "promoted"

    def record(self) -> Record:
        """Read what has happened so far."""
        return Record(read_journal(self.journal))

    def search(self) -> Search:
        """Read the search that the run is of.

        Raises:
            InputError: This is no folder of a run.
        """
        file = self.path / SEARCH_FILE
        if not file.is_file():
            raise InputError(
                f"{self.path} is no run of a search: it holds no {SEARCH_FILE}; pass a folder "
                f"such as workspace/{SEARCHES}/als-1"
            )
        raw = yaml.safe_load(file.read_text())
        raw["config"], raw["overrides"] = str(self.config), []
        return parse_search(raw, str(file))

    def check_inputs(self, inputs: Mapping[str, str]) -> None:
        """Note what the trials see; in a run that goes on it must be what they saw before.

        Raises:
            InputError: It is not.
        """
        before = self.inputs() or dict(inputs)
        changed = [name for name in inputs if before.get(name) != inputs[name]]
        if changed:
            raise InputError(
                f"{', '.join(changed)} changed since {self.path} began: its trials cannot be "
                "compared with new ones; start a new search (without --resume)"
            )
        write_json(self.path / INPUTS_FILE, before)

    def check_learned_from(self, inputs: Mapping[str, str]) -> None:
        """Check that a search of these inputs can learn from this run.

        Raises:
            InputError: Its trials saw other data, so their scores say nothing here.
        """
        theirs = self.inputs()
        other = [name for name in DATA if theirs and theirs.get(name) != inputs.get(name)]
        if other:
            raise InputError(
                f"warm_start: {self.path} saw other {' and '.join(other)}, so its scores say "
                "nothing of these data; take warm_start out, or name a run on the same data"
            )

    def inputs(self) -> dict[str, str]:
        """Return what the trials saw; nothing of a run that has not begun."""
        file = self.path / INPUTS_FILE
        return dict(json.loads(file.read_text())) if file.is_file() else {}


def create_run(search: Search) -> RunFolder:
    """Make the next free folder for a search.

    Raises:
        InputError: The run that it is to learn from is none, or of something else.
    """
    earlier_run(search)
    searches = search.config.workspace / SEARCHES
    whole = searches / f".{search.settings.name}.{os.getpid()}"
    with room_on_disk(searches):
        whole.mkdir(parents=True, exist_ok=True)
        for name, content in _resolved(search).items():
            (whole / name).write_text(content)
    number = 1 + max(_numbers(searches, search.settings.name), default=0)
    while True:  # somebody may begin one of the same name at the same moment
        path = searches / f"{search.settings.name}-{number}"
        try:
            return RunFolder(whole.rename(path).resolve())
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            number += 1


def newest_run(search: Search) -> RunFolder:
    """Find the run of a search that is to go on.

    Raises:
        InputError: There is none, or the search has changed since.
    """
    searches = search.config.workspace / SEARCHES
    numbers = _numbers(searches, search.settings.name)
    if not numbers:
        raise InputError(
            f"no run of {search.settings.name} in {searches}; start one without --resume"
        )
    run = RunFolder((searches / f"{search.settings.name}-{max(numbers)}").resolve())
    changes = []
    for name, content in _resolved(search).items():
        changes += _changes(_as_read_now(run.path / name), yaml.safe_load(content))
    if changes:
        listed = "\n  ".join(changes)
        raise InputError(
            f"{run.path} is of another search:\n  {listed}\n"
            "undo the changes to go on with it, or start a new search (without --resume); "
            "warm_start lets that one learn from this one's trials"
        )
    return run


def earlier_run(search: Search) -> RunFolder | None:
    """Find the run that a search is to learn from, if it names one.

    Raises:
        InputError: There is no run, or it is of another part or lacks an objective.
    """
    if search.settings.warm_start is None:
        return None
    earlier = RunFolder(search.settings.warm_start)
    theirs, ours = earlier.search().settings, search.settings
    missing = [name for name in ours.objectives if name not in theirs.objectives]
    if theirs.held_out != ours.held_out:
        raise InputError(
            f"warm_start: in {earlier.path} {theirs.held_out} items of each user judged, here it "
            f"is {ours.held_out}, so its scores cannot be compared; set held_out: {theirs.held_out}"
        )
    if theirs.search != ours.search or missing:
        raise InputError(
            f"warm_start: {earlier.path} searched {theirs.search} by "
            f"{', '.join(theirs.objectives)}, but this search is of {ours.search} by "
            f"{', '.join(ours.objectives)}; name a run of the same part that has every objective"
        )
    return earlier


@contextmanager
def locked(file: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock for as long as the block runs; it is given up however the process ends.

    Args:
        file: Is created where it is missing.
        doing: What nobody else may do meanwhile, for the error.
        wait: Whether to wait for whoever holds it.

    Raises:
        InputError: Somebody else holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            handle.seek(0)
            raise InputError(
                f"process {handle.read().strip() or 'unknown'} is {doing} in {file.parent}; wait "
                "until it has ended, or stop it"
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _numbers(searches: Path, name: str) -> list[int]:
    found = (re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name) for path in searches.glob("*"))
    return [int(match[1]) for match in found if match]


def _resolved(search: Search) -> dict[str, str]:
    settings = search.settings.model_dump(mode="json")
    return {
        SEARCH_FILE: yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        CONFIG_FILE: dump_config(search.config),
    }


def _as_read_now(file: Path) -> Any:
    """Return what `_resolved` once wrote, with the defaults of settings that are new since."""
    raw = yaml.safe_load(file.read_text())
    try:
        if file.name == CONFIG_FILE:
            return yaml.safe_load(dump_config(load_config(file)))
        return SearchConfig.model_validate(raw).model_dump(mode="json")
    except (ConfigError, ValidationError):  # a setting is gone: the difference will name it
        return raw


def _changes(before: Any, now: Any, path: str = "") -> list[str]:
    """Say what differs, a line a value."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{path} was {before!r} and is {now!r}"]
    lines = []
    for key in dict.fromkeys((*before, *now)):
        inner = f"{path}.{key}" if path else str(key)
        if key not in now:
            lines.append(f"{inner} was {before[key]!r} and is gone")
        elif key not in before:
            lines.append(f"{inner} is new: {now[key]!r}")
        else:
            lines += _changes(before[key], now[key], inner)
    return lines
