"""The time of one request: what is left of it, and which stage took how much."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """The time of one request."""

    deadline_s: float
    started: float = field(default_factory=time.perf_counter)
    timings_ms: dict[str, float] = field(default_factory=dict)
    lapped: float = 0.0
    """When the last lap ended."""

    def __post_init__(self) -> None:
        self.lapped = self.started

    def left_s(self) -> float:
        """Return the time until the deadline, never negative."""
        return max(0.0, self.deadline_s - (time.perf_counter() - self.started))

    def lap(self, stage: str) -> None:
        """Note the time since the start or the last lap as that of a stage."""
        now = time.perf_counter()
        self.timings_ms[stage] = round((now - self.lapped) * 1000, 3)
        self.lapped = now
