"""What became of the rows that came: kept, rejected by reason, evaluated or not.

Travels in the bundle as JSON, so that whoever reads its figures knows what they leave out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq

from heliograph.catalog import ITEMS_FILE, REJECTED_ITEMS_FILE
from heliograph.events import EVENTS_FILE, REJECTED_EVENTS_FILE
from heliograph.splits import SplitCounts


@dataclass(frozen=True)
class Kept:
    """The rows of one table."""

    kept: int
    rejected: dict[str, int]
    """Reason -> rows, most frequent first."""

    @property
    def came(self) -> int:
        """Rows in the files."""
        return self.kept + sum(self.rejected.values())


@dataclass(frozen=True)
class Cleaning:
    """An account of the data that a bundle was built from."""

    items: Kept
    events: Kept
    users: int
    split: list[str]
    """What the split holds out and leaves out, a sentence each."""

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` made of it, after a passage through JSON."""
        return cls(
            items=_parse_kept(content["items"]),
            events=_parse_kept(content["events"]),
            users=content["users"],
            split=content["split"],
        )


def account(items: Path, events: Path, split: SplitCounts) -> Cleaning:
    """Count what the stages `items` and `events` kept and rejected.

    Args:
        items: Folder that `ingest_items` wrote.
        events: Folder that `ingest_events` wrote.
        split: Of these events.
    """
    return Cleaning(
        items=_count(items / ITEMS_FILE, items / REJECTED_ITEMS_FILE),
        events=_count(events / EVENTS_FILE, events / REJECTED_EVENTS_FILE),
        users=split.users,
        split=split.sentences(),
    )


def mostly_rejected(items: Path, events: Path) -> list[str]:
    """Say of each table that lost more rows than it kept why it did, a sentence each.

    Most often a setting does not fit the files, such as the unit of time.
    """
    tables = [
        (items / ITEMS_FILE, items / REJECTED_ITEMS_FILE),
        (events / EVENTS_FILE, events / REJECTED_EVENTS_FILE),
    ]
    sentences = []
    for kept, rejected in tables:
        rows = _count(kept, rejected)
        lost = rows.came - rows.kept
        if lost > rows.kept:
            reasons = "; ".join(f"{count:,}: {why}" for why, count in rows.rejected.items())
            sentences.append(
                f"{lost:,} of {rows.came:,} rows were rejected ({reasons}); see {rejected}"
            )
    return sentences


def _count(kept: Path, rejected: Path) -> Kept:
    reasons = Counter(pq.read_table(rejected, columns=["reason"])["reason"].to_pylist())
    return Kept(pq.read_metadata(kept).num_rows, _by_frequency(reasons))


def _parse_kept(content: dict[str, Any]) -> Kept:
    return Kept(content["kept"], _by_frequency(content["rejected"]))


def _by_frequency(reasons: dict[str, int]) -> dict[str, int]:
    """Order by frequency, then by name: JSON is written in order of key."""
    return dict(sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0])))
