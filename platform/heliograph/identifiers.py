"""Identifiers: what can be one, and what an event without one is called."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_ID_LENGTH = 512


def bad_id(identifier: object) -> str | None:
    """Return why a value cannot be an identifier, or None if it can."""
    if not isinstance(identifier, str) or not identifier.strip():
        return "is missing"
    if len(identifier) > MAX_ID_LENGTH:
        return f"has more than {MAX_ID_LENGTH} characters"
    if not identifier.isprintable():
        return "has characters that cannot be printed"
    return None


def content_id(
    user_id: str | None, item_id: str | None, time_us: int, value: float, kind: str
) -> str:
    """Return the identifier of an event that has none; a value that is absent is NaN."""
    content = "\x1f".join(map(str, (user_id, item_id, time_us, value, kind)))
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def _identifier(value: str) -> str:
    if problem := bad_id(value):
        raise ValueError(f"the identifier {problem}")
    return value


Identifier = Annotated[str, Field(max_length=MAX_ID_LENGTH), AfterValidator(_identifier)]
"""The type of an identifier in what travels."""
