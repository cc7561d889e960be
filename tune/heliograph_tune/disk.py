"""A full disk: told from other errors, and said so that whoever reads it knows what to do."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heliograph.workspace import InputError

CODES = (errno.ENOSPC, errno.EDQUOT)
"""No space left on the device, or in what this user may have of it."""


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error is a full disk's, or was raised because of one.

    safetensors has errors of its own, in which only the words say so.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in CODES:
            return True
        if any(os.strerror(code) in str(error) for code in CODES):
            return True
        error = error.__cause__ or error.__context__
    return False


def full(path: Path, what: str, error: Exception) -> str:
    """Say that something could not be written, where, and what to do.

    Args:
        path: Of what could not be written; it need not exist.
        what: Stopped because of it.
        error: Of the full disk.
    """
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    free, why = shutil.disk_usage(there).free / 2**20, str(error) or repr(error)
    return (
        f"{what}: the disk of {path}, or what you may have of it, is full ({free:,.0f} MB are "
        f"free; {why.strip().splitlines()[-1]}); make room and go on with --resume: no finished "
        "trial is lost"
    )


@contextmanager
def room_on_disk(path: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do.

    Raises:
        InputError: The disk, or what may be used of it, is full.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error) or isinstance(error, InputError):
            raise
        raise InputError(full(path, "the search stopped", error)) from error
