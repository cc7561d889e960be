"""The metrics of an ingress replica, as Ray exports them to Prometheus with the prefix `ray_`."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Protocol, cast

from ray import serve
from ray.serve.metrics import Counter, Gauge

from heliograph_serve.tally import Histogram, Load, Tally


class Watched(Protocol):
    """The ingress, as far as metrics go."""

    def load(self) -> Load:
        """Tell what the metrics watch."""


class Exporter:
    """Hands numbers to Ray."""

    def __init__(self) -> None:
        self._requests = _counter(
            "heliograph_requests", "Requests by route and status.", ("request_route", "status")
        )
        self._answers = _counter("heliograph_answers", "Recommendations by tier.", ("tier",))
        self._arms = _counter(
            "heliograph_experiment_answers",
            "Recommendations by experiment, arm and tier.",
            ("experiment", "arm", "tier"),
        )
        self._exposures = _counter(
            "heliograph_exposures", "Exposures by what became of them.", ("outcome",)
        )
        self._stage_ms = _Buckets(
            "heliograph_stage_ms", "Time of each stage of a recommendation, ms.", ("stage",)
        )
        self._batches = _counter("heliograph_batches", "Batches sent to a stage.", ("stage",))
        self._queries = _counter(
            "heliograph_batched_queries", "Queries in the batches of a stage.", ("stage",)
        )
        self._waiting = Gauge(
            "heliograph_waiting", "Queries that wait for the next batch of a stage.", ("stage",)
        )
        self._under_way = Gauge("heliograph_under_way", "Requests under way.")
        self._lookups = _counter(
            "heliograph_candidate_lookups", "Look-ups in the candidate cache.", ("outcome",)
        )
        self._prompts = _counter(
            "heliograph_prompt_tokens", "Tokens of histories before the item LM.", ("outcome",)
        )
        self._change = Gauge(
            "heliograph_item_change", "Number of the newest change of items that is applied."
        )
        self._first = Gauge(
            "heliograph_first_item_log_probability",
            "Mean log-probability of the first item of the last second's generative answers.",
        )
        self._events = _counter("heliograph_events", "Events by what became of them.", ("outcome",))
        self._lag = _Buckets(
            "heliograph_event_lag_s", "Seconds from an event until it was on the disk.", ()
        )
        self._told: dict[tuple[str, str], int] = {}

    def export(self, tally: Tally, under_way: int) -> None:
        """Export what came since the last time, and how things are now."""
        for (route, status), count in tally.requests.items():
            self._requests.inc(count, {"request_route": route, "status": str(status)})
        for tier, count in tally.answers.items():
            self._answers.inc(count, {"tier": tier})
        for (experiment, arm, tier), count in tally.arms.items():
            self._arms.inc(count, {"experiment": experiment, "arm": arm, "tier": tier})
        for stage, histogram in tally.stage_ms.items():
            self._stage_ms.add(histogram, {"stage": stage})
        for outcome, count in tally.events.items():
            if count:
                self._events.inc(count, {"outcome": outcome})
        self._lag.add(tally.event_lag_s, {})
        if tally.first_log_probabilities:
            self._first.set(fmean(tally.first_log_probabilities))
        self._under_way.set(under_way)
        ingress = cast(Watched, serve.get_replica_context().servable_object)
        self._export_load(ingress.load())

    def _export_load(self, load: Load) -> None:
        for stage in load.stages:
            tags = {"stage": stage.name}
            self._waiting.set(stage.waiting, tags)
            self._tell(self._batches, stage.batches, tags)
            self._tell(self._queries, stage.queries, tags)
        self._tell(self._lookups, load.cache.hits, {"outcome": "hit"})
        self._tell(self._lookups, load.cache.misses, {"outcome": "miss"})
        self._tell(self._prompts, load.prompts.cached, {"outcome": "cached"})
        self._tell(self._prompts, load.prompts.all - load.prompts.cached, {"outcome": "computed"})
        self._change.set(load.change)
        log = load.exposures
        for outcome, total in (("kept", log.kept), ("erased", log.erased), ("lost", log.lost)):
            self._tell(self._exposures, total, {"outcome": outcome})

    def _tell(self, counter: Counter, total: int, tags: dict[str, str]) -> None:
        """Raise a counter by what a total has grown; a smaller total began anew."""
        key = (counter.info["name"], *tags.values())
        told = self._told.get(key, 0)
        if grown := total - told if total >= told else total:
            counter.inc(grown, tags)
        self._told[key] = total


class _Buckets:
    """A histogram as a counter for each bucket, a count and a sum."""

    def __init__(self, name: str, description: str, tags: tuple[str, ...]) -> None:
        self._bucket = _counter(f"{name}_bucket", description, (*tags, "le"))
        self._sum = _counter(f"{name}_sum", f"{description} Their sum.", tags)

    def add(self, histogram: Histogram, tags: dict[str, str]) -> None:
        """Add what a histogram counted; buckets are cumulative."""
        if not any(histogram.counts):
            return
        below = 0
        for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
            below += count
            if below:
                le = "+Inf" if math.isinf(bound) else f"{bound:g}"
                self._bucket.inc(below, tags | {"le": le})
        if histogram.sum > 0:
            self._sum.inc(histogram.sum, tags)


def _counter(name: str, description: str, tags: tuple[str, ...]) -> Counter:
    return Counter(name, description, cast("tuple[str]", tags))  # Ray says one tag and takes any
