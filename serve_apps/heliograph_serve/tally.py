"""Requests added up: what a second of them was like.

A histogram is a counter for each bucket, which is what Prometheus makes of one anyway.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from heliograph_serve.cache import CandidateCache
from heliograph_serve.exposure_log import ExposureLog
from heliograph_serve.lanes import PromptTokens
from heliograph_serve.request_record import RequestRecord

MS_BUCKETS = (1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500, 1000, 2000, 5000)
LAG_BUCKETS_S = (0.1, 0.5, 1, 5, 15, 60, 300, 3600, 86_400)


class WatchedStage(Protocol):
    """What is watched of a stage."""

    name: str
    batches: int
    queries: int

    @property
    def is_open(self) -> bool:
        """Whether the stage is left alone because it kept failing."""

    @property
    def waiting(self) -> int:
        """Queries that wait for the batch that is away."""


@dataclass(frozen=True)
class Load:
    """What an ingress shows of itself."""

    stages: tuple[WatchedStage, ...]
    cache: CandidateCache
    prompts: PromptTokens
    exposures: ExposureLog
    change: int
    """The newest change of items that is applied."""


class Histogram:
    """Counts of values up to each bound, the last bound being infinity."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = (*bounds, math.inf)
        self.counts = [0] * len(self.bounds)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Tally:
    """Requests added up."""

    def __init__(self, records: Iterable[RequestRecord] = ()) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # by route and status
        self.answers: Counter[str] = Counter()  # by tier
        self.arms: Counter[tuple[str, str, str]] = Counter()  # answers by experiment, arm, tier
        self.stage_ms: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(MS_BUCKETS))
        self.events: Counter[str] = Counter()  # by what became of them
        self.event_lag_s = Histogram(LAG_BUCKETS_S)
        self.first_log_probabilities: list[float] = []
        for record in records:
            self._add(record)

    def _add(self, record: RequestRecord) -> None:
        self.requests[record.route, record.status] += 1
        if record.tier is not None:
            self.answers[record.tier] += 1
            if record.experiment is not None:
                self.arms[*record.experiment, record.tier] += 1
        for stage, ms in record.timings_ms.items():
            self.stage_ms[stage].add(ms)
        if record.first_score:
            self.first_log_probabilities.append(math.log(record.first_score))
        if record.events is not None:
            kept = record.events
            self.events.update(new=kept.new, repeated=kept.repeated, erased=kept.erased)
        for lag_s in record.event_lags_s:
            self.event_lag_s.add(lag_s)
