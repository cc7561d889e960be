"""The folder of exported events: Parquet parts, and who has been erased.

A part is named by the positions it covers in the store, so the folder itself says how far the
export has come. Files appear whole or not at all. An erased user stands there as a digest and a
time: events up to it are gone from the parts, and are left out of every other source at ingest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from heliograph.workspace import InputError, digest_of, hash_file

ERASURES_FILE = "_erased.parquet"
"""Begins with an underscore: it is no data of the folder, which any reader of events may read."""

_ERASURES = pa.schema([("user_digest", pa.string()), ("erased_us", pa.int64())])
_LOCK_FILE = ".lock"

Erasures = Mapping[str, int]
"""Digest of a user -> microseconds since 1970 until which the user's events are erased."""


def user_digest(user_id: str) -> str:
    """Return what an erased user is remembered by: the id itself is gone."""
    return hashlib.blake2b(user_id.encode(), digest_size=16).hexdigest()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process writes to the folder, and keep others waiting."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def parts(folder: Path) -> list[Path]:
    """List the parts in the order of their positions."""
    return sorted(folder.glob("events-*.parquet"))


def holds_anything(folder: Path) -> bool:
    """Tell whether any event was ever exported to the folder, or any user erased."""
    return bool(parts(folder)) or (folder / ERASURES_FILE).is_file()


def last_position(folder: Path) -> int:
    """Return the last position in the store that the parts cover; 0 if there is none."""
    return max((int(part.stem.rpartition("-")[2]) for part in parts(folder)), default=0)


def write_part(events: pa.Table, first: int, last: int, folder: Path) -> Path:
    """Write the events at the positions `first` to `last`."""
    path = folder / f"events-{first:015d}-{last:015d}.parquet"
    _write(events, path)
    return path


def read_parts(folder: Path, schema: pa.Schema) -> pa.Table:
    """Read the events of all parts."""
    tables = [pq.read_table(part, schema=schema) for part in parts(folder)]
    return pa.concat_tables([schema.empty_table(), *tables])


def read_erasures(folder: Path) -> dict[str, int]:
    """Return who has been erased, and until when.

    Raises:
        InputError: The file is broken.
    """
    path = folder / ERASURES_FILE
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise InputError(
            f"{path} cannot be read ({error}); delete it, the next export writes it anew"
        ) from error
    pairs = zip(table["user_digest"].to_pylist(), table["erased_us"].to_pylist(), strict=True)
    return dict(pairs)


def obey_erasures(erasures: Erasures, folder: Path) -> int:
    """Erase users from the parts and remember them in the folder; returns the events erased.

    The parts come first: if this is interrupted, the next call does what is left.

    Raises:
        InputError: A part is broken; all others have been dealt with.
    """
    known = read_erasures(folder)
    new = {digest: until for digest, until in erasures.items() if known.get(digest, -1) < until}
    if not new:
        return 0
    erased = 0
    broken = []
    for part in parts(folder):
        try:
            erased += _erase_from(part, new)
        except (pa.ArrowException, OSError) as error:
            broken.append(f"{part} ({error})")
    if broken:
        raise InputError(
            f"users cannot be erased from {', '.join(broken)}; bring the file back from a backup, "
            f"or move the folder {folder} away, and the next export writes all of it anew"
        )
    merged = known | new
    columns = [pa.array(list(merged)), pa.array(list(merged.values()), pa.int64())]
    _write(pa.table(columns, _ERASURES.names).cast(_ERASURES), folder / ERASURES_FILE)
    return erased


def is_erased(events: pa.Table, erasures: Erasures) -> NDArray[np.bool_]:
    """Return (events,) whether each is of an erased user and not after the erasure."""
    if not erasures:
        return np.zeros(events.num_rows, bool)
    users = events["user_id"].combine_chunks().dictionary_encode()
    until = [
        -1 if user is None else erasures.get(user_digest(user), -1)
        for user in users.dictionary.to_pylist()
    ]
    codes = users.indices.fill_null(0).to_numpy()
    times = events["timestamp"].cast(pa.int64()).to_numpy()
    limits = np.array([*until, -1], np.int64)[codes]
    limits[~users.is_valid().to_numpy(zero_copy_only=False)] = -1
    return np.asarray(times <= limits, bool)


def fingerprint(folder: Path) -> str:
    """Hash everything in the folder that an ingest depends on."""
    files = [*parts(folder), *folder.glob(ERASURES_FILE)]
    return digest_of(*(f"{file.name} {hash_file(file)}" for file in files))


def _erase_from(part: Path, erasures: Erasures) -> int:
    events = pq.read_table(part)
    erased = is_erased(events, erasures)
    if erased.any():
        _write(events.filter(pa.array(~erased)), part)  # also if none is left: its name counts
    return int(erased.sum())


def _write(table: pa.Table, path: Path) -> None:
    """Write a file that is either there, whole and on the disk, or not there."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
