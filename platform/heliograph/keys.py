"""API keys: a file of names, digests and scopes; a key itself is shown once and kept nowhere.

A key is 256 random bits, so there is nothing to guess and one round of SHA-256 is the right
digest: slow hashes (bcrypt, Argon2) make up for the little entropy of passwords, and here they
would cost every request milliseconds for nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import Field, ValidationError

from heliograph.config import Config
from heliograph.workspace import InputError

PREFIX = "hg_"
"""Of every key, so that scanners for secrets in code and logs can find one that leaked."""

KEY_BYTES = 32


class Scope(StrEnum):
    """What a key is good for; none contains another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Key(Config):
    """One key as it is kept."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the key that its holder sends."""

    scopes: tuple[Scope, ...] = Field(min_length=1)
    created: datetime


class KeyFile(Config):
    """The content of a keys file."""

    keys: tuple[Key, ...] = ()


class KeyRing:
    """Keys by what their holders send."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys: Mapping[str, Key] = {key.sha256: key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, secret: str) -> Key | None:
        """Return the key that somebody sent, or None if there is no such key.

        Looking up a digest takes a time that depends on digests, and who cannot invert SHA-256
        learns nothing of a key from it; what is found is compared in constant time all the same.
        """
        digest = hashlib.sha256(secret.encode()).hexdigest()
        key = self._keys.get(digest)
        if key is None or not hmac.compare_digest(key.sha256, digest):
            return None
        return key


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a keys file.

    Raises:
        InputError: There is none, or it is not one.
    """
    try:
        return KeyFile.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError as error:
        raise InputError(
            f"no keys file at {path}; make one with `heliograph keys add NAME --scope read "
            f"--file {path}`, or unset serve.keys"
        ) from error
    except (ValidationError, OSError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"{path} is not a keys file: {reason}") from error


def add_key(path: Path, name: str, scopes: Sequence[Scope]) -> str:
    """Add a key to a file, which is made if there is none; returns the key, kept nowhere else.

    Raises:
        InputError: The file has a key of that name, or the name cannot be one.
    """
    secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    ordered = tuple(scope for scope in Scope if scope in scopes)
    try:
        key = Key(name=name, sha256=digest, scopes=ordered, created=datetime.now(UTC))
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(
            f"{problem['loc'][0]} of the key: {problem['msg']}; names are letters, digits, "
            "dots, - and _, and a key has at least one scope"
        ) from error
    with _only_writer(path):
        keys = read_keys(path) if path.exists() else ()
        if any(known.name == name for known in keys):
            raise InputError(f"{path} has a key {name} already; remove it or choose another name")
        _write(path, (*keys, key))
    return secret


def remove_key(path: Path, name: str) -> None:
    """Take a key out of a file; running graphs refuse it within seconds.

    Raises:
        InputError: There is no such key.
    """
    with _only_writer(path):
        keys = read_keys(path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise InputError(f"{path} has no key {name}; here are: {names}")
        _write(path, left)


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Keep two commands from losing each other's key; the lock lies beside the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    content = KeyFile(keys=keys).model_dump(mode="json")
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(content, indent=2) + "\n")
    draft.replace(path)  # a graph that reads meanwhile sees the old file or the new one
