"""User ids as keyed hashes, where the configuration asks for it.

The same user has the same pseudonym offline and online, so histories still match; who lacks the
key cannot find out whose a pseudonym is by hashing every id there could be. The key is read from
the environment and stands in no file.
"""

from __future__ import annotations

import hashlib
import os

from heliograph.config import EventsConfig
from heliograph.workspace import InputError

MIN_SECRET_LENGTH = 16


def read_key(config: EventsConfig) -> bytes | None:
    """Return the key of the pseudonyms, or None if user ids stay as they are.

    Raises:
        InputError: The environment variable that the setting names is missing or too short.
    """
    if config.pseudonym_key is None:
        return None
    secret = os.environ.get(config.pseudonym_key, "")
    if len(secret) < MIN_SECRET_LENGTH:
        raise InputError(
            f"events.pseudonym_key names the environment variable {config.pseudonym_key}, which "
            f"holds {len(secret)} characters; set it to a secret of {MIN_SECRET_LENGTH} or more, "
            "the same for every build and every replica"
        )
    return hashlib.blake2b(secret.encode(), digest_size=32).digest()


def pseudonym(user_id: str, key: bytes | None) -> str:
    """Return what a user is called inside: 32 hexadecimal digits, or without a key the id."""
    if key is None:
        return user_id
    return hashlib.blake2b(user_id.encode(), key=key, digest_size=16).hexdigest()
