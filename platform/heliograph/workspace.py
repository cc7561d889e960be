"""The folder that stages write to, and the rule that unchanged work is not done twice.

A stage is skipped when the hash of its settings and of its inputs is the one it wrote down
last time and its files are still there. Nothing here knows what any stage does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from heliograph import __version__

RECORD = "stage.json"


class InputError(ValueError):
    """Input that cannot be used; the message says what came, what was expected, what to do."""


def missing_extra(module: str) -> InputError:
    """Return the error of a library that an extra installs: one for CPUs, another for GPUs."""
    return InputError(
        f"{module} is not installed: it comes with an extra of heliograph, so pip install "
        "'heliograph[cpu]', or 'heliograph[gpu]' on a machine with GPUs, and then run "
        "`heliograph doctor`"
    )


class _Record(BaseModel):
    """What a finished stage wrote down, in the file RECORD."""

    key: str
    """Hash of the settings and inputs."""

    digest: str
    counts: dict[str, int | float]
    seconds: float
    files: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class StageResult:
    """What a stage did: where its files are, its counts, and whether it had to run at all."""

    name: str
    folder: Path
    digest: str
    """Hash of the files written: what the next stages depend on."""

    counts: dict[str, float]
    seconds: float
    """Of the run that wrote the files, also when this time they were found unchanged."""

    reused: bool


def run_stage(
    workspace: Path,
    name: str,
    settings: Mapping[str, BaseModel | int | None],
    inputs: Mapping[str, str],
    work: Callable[[Path], Mapping[str, float]],
) -> StageResult:
    """Run `work` in the stage's folder unless its result is already there.

    Args:
        workspace: Folder of all stages.
        name: Of the stage; its folder is `workspace / name`.
        settings: What the result depends on besides the inputs.
        inputs: Digest of everything read, by name.
        work: Writes files into the folder it is given and returns counts to report. It may find
            files of an earlier, killed or differently configured run there and use what it can.
    """
    folder = workspace / name
    key = _key(settings, inputs)
    record = _read_record(folder)
    if record is not None and record.key == key and _is_whole(folder, record.files):
        return StageResult(name, folder, record.digest, record.counts, record.seconds, reused=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)  # from here on the folder counts as unfinished
    start = time.perf_counter()
    counts = dict(work(folder))
    seconds = time.perf_counter() - start
    files = hash_files(folder)
    digest = digest_of(json.dumps({path: entry["sha256"] for path, entry in files.items()}))
    record = _Record(key=key, digest=digest, counts=counts, seconds=seconds, files=files)
    write_json(folder / RECORD, record.model_dump())
    return StageResult(name, folder, digest, counts, seconds, reused=False)


def make_folder(folder: Path, setting: str) -> None:
    """Make a folder to write to, with those above it, before any work is done for it.

    Args:
        folder: May be there already.
        setting: Names it; stands in the message.

    Raises:
        InputError: A file is in its place or above it, or nobody may write there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # the one sure way to find out
    except OSError as error:
        raise InputError(
            f"{setting} {folder} is to be a folder to write to, but is not and cannot be made one "
            f"({error.strerror}); set {setting} to a path where one can be made"
        ) from error


def resolve(location: str) -> Path:
    """Turn a path or `package://name/path` into a path, without importing the package.

    Raises:
        InputError: The package is not installed, or nothing is at the path.
    """
    scheme, separator, rest = location.partition("://")
    if not separator:
        path = Path(location)
    elif scheme == "package":
        package, _, inner = rest.partition("/")
        path = _package_folder(package, location) / inner
    else:
        raise InputError(f"{location}: scheme {scheme}:// is unknown; use a path or package://")
    if not path.exists():
        raise InputError(f"{location}: nothing there (looked at {path}); check the path")
    return path


def source_files(location: str) -> list[Path]:
    """List the files at a location: the file itself, or a folder's files in order of name.

    What begins with a dot or an underscore, as `_SUCCESS` and `.ipynb_checkpoints/`, is no data.
    """
    path = resolve(location)
    if path.is_file():
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part[0] in "._" for part in file.relative_to(path).parts)
    )
    if not files:
        raise InputError(f"{location}: the folder holds no files; put the data there")
    return files


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return sha256 and size of every file below a folder, by relative path, in order of path.

    The stage's record is left out, and so are files that `write_text` was killed over.
    """
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD and not path.name.startswith(".")
    )
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": hash_file(path),
            "bytes": path.stat().st_size,
        }
        for path in paths
    }


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(*parts: str) -> str:
    """Hash strings; the boundaries between them count."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_text` writes."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write text so that a reader sees the old file or the whole new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)


def _key(settings: Mapping[str, BaseModel | int | None], inputs: Mapping[str, str]) -> str:
    plain = {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in settings.items()
    }
    return digest_of(
        __version__, json.dumps(plain, sort_keys=True), json.dumps(dict(inputs), sort_keys=True)
    )


def _package_folder(package: str, location: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{location}: package {package!r} is not installed; install it first")
    return Path(next(iter(spec.submodule_search_locations)))


def _read_record(folder: Path) -> _Record | None:
    try:
        return _Record.model_validate_json((folder / RECORD).read_bytes())
    except (FileNotFoundError, ValueError):
        return None  # not finished, or cut off while it was written: the stage runs again


def _is_whole(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(
        (folder / path).is_file() and (folder / path).stat().st_size == entry.get("bytes")
        for path, entry in files.items()
    )
