"""What is known of the request at hand, for logs and metrics; its handlers fill it in.

A handler does not know who reads what it notes. Where nobody does (a method called by a test or
through a handle), noting does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from heliograph.event_store.event import Event
from heliograph.event_store.store import Appended


@dataclass(slots=True)
class RequestRecord:
    """One request, from the door to its answer."""

    route: str
    """Method and path template, one of a few; never the path itself, which holds ids."""

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    caller: str | None = None
    """Name of the API key."""

    ended: float = 0.0
    """Seconds since 1970."""

    ms: float = 0.0
    """From the door to the end of the answer."""

    status: int = 500
    """Of the answer; stays so where a handler dies."""

    user: str | None = None
    """Pseudonym, or the id itself where there are none; what is written is a digest of it."""

    tier: str | None = None
    experiment: tuple[str, str] | None = None
    """Name and arm, where the user takes part in one."""

    timings_ms: Mapping[str, float] = field(default_factory=dict)
    first_score: float | None = None
    """Of the first item, where the item LM gave it: its probability."""

    events: Appended | None = None
    event_lags_s: Sequence[float] = ()
    """Time from when each event happened until it was on the disk."""


CURRENT: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def note_user(user: str | None) -> None:
    """Note whom the request is about, by pseudonym where there are any."""
    if record := CURRENT.get():
        record.user = user


def note_answer(tier: str, timings_ms: Mapping[str, float], first_score: float | None) -> None:
    """Note what answered and how long each stage took."""
    if record := CURRENT.get():
        record.tier, record.timings_ms = tier, timings_ms
        record.first_score = first_score if tier == "generative" else None


def note_experiment(name: str, arm: str) -> None:
    """Note which arm of an experiment was answered."""
    if record := CURRENT.get():
        record.experiment = name, arm


def note_events(kept: Appended, events: Sequence[Event]) -> None:
    """Note which events are on the disk now."""
    if record := CURRENT.get():
        now_us = time.time_ns() // 1000
        record.events = kept
        record.event_lags_s = [(now_us - event.time_us) / 1e6 for event in events]
