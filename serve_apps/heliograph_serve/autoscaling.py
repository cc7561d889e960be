"""How many replicas each deployment gets: as many as its own work takes.

Serve's own policy counts the requests at a deployment. Those at the ingress wait for the ranking
model most of the time, so when that is slow, everything in front of it would scale too; and those
at the ranking model come in batches, so it would never scale. Here every replica says which share
of its time it had work in hand, and a deployment gets the replicas that bring this share to a
target. Time spent waiting for others is no work.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import psutil
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from heliograph.config import DeploymentConfig
from heliograph_serve.crew import own_name

BUSY = "busy"
"""Name of the share among the statistics of a replica."""

TOLD_EVERY_S = 2.0
LOOK_BACK_S = 10.0
"""Shares are averaged over so long."""

STEADY = 0.01
"""Of a replica; a share that is above its target by less is on target."""


class Meter(Protocol):
    """Measures how busy a replica is."""

    def share(self) -> float:
        """Return the share of time since this was last asked."""
        ...


class WorkMeter:
    """The share of time in which something was in hand, however much at once.

    Right where work runs elsewhere: on a GPU, or in threads of a native library.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_hand = 0
        self._busy_s = 0.0
        self._changed = self._asked = clock()

    def __enter__(self) -> None:
        """Take something in hand."""
        self._count()
        self._in_hand += 1

    def __exit__(self, *_: object) -> None:
        """Put it down."""
        self._count()
        self._in_hand -= 1

    def share(self) -> float:
        """Return the share since this was last asked, from 0 to 1."""
        self._count()
        since, busy = self._changed - self._asked, self._busy_s
        self._asked, self._busy_s = self._changed, 0.0
        return min(busy / since, 1.0) if since > 0 else 0.0

    def _count(self) -> None:
        now = self._clock()
        if self._in_hand:
            self._busy_s += now - self._changed
        self._changed = now


class ProcessorMeter:
    """The share of one processor that this process took: its event loop cannot take more.

    Right for a process that does all its work itself, in one thread at a time.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        processor_time: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock = clock
        self._processor_time = processor_time
        self._asked, self._used = clock(), processor_time()

    def share(self) -> float:
        """Return the share since this was last asked; threads can bring it above 1."""
        now, used = self._clock(), self._processor_time()
        since, taken = now - self._asked, used - self._used
        self._asked, self._used = now, used
        return taken / since if since > 0 else 0.0


class Metered:
    """Base of the deployments: tells Serve how busy a replica is."""

    meter: Meter

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the policy decides by; Serve asks every few seconds."""
        return {BUSY: self.meter.share()}

    def processor_s(self) -> dict[str, float]:
        """Return the processor seconds of this replica and what it has started, under its name."""
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return {own_name(): sum(sum(one.cpu_times()[:2]) for one in family)}


class ByBusyShare:
    """A policy of Serve: as many replicas as bring the share of busy time to a target.

    Serve itself sees to bounds and delays.
    """

    def __init__(self, target: float) -> None:
        self.target = target

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the replicas that are wanted, and nothing to remember."""
        shares = (context.aggregated_metrics or {}).get(BUSY, {})
        told = [shares[replica] for replica in context.running_replicas if replica in shares]
        if not told:  # nobody has said anything yet
            return context.target_num_replicas, {}
        running = len(context.running_replicas)
        return replicas_wanted(running, sum(told) / len(told), self.target), {}


def replicas_wanted(running: int, share: float, target: float) -> int:
    """Return how many replicas bring the share of busy time to the target or below, at least 1."""
    return max(1, math.ceil(running * share / target - STEADY))


def autoscaling(settings: DeploymentConfig) -> AutoscalingConfig:
    """Return the settings as Serve wants them."""
    with warnings.catch_warnings():
        # an environment variable is to replace the interval, but so far only sets its default, in
        # whatever process makes this object
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            metrics_interval_s=TOLD_EVERY_S,
            look_back_period_s=LOOK_BACK_S,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
            policy=AutoscalingPolicy(
                policy_function=f"{ByBusyShare.__module__}:{ByBusyShare.__name__}",
                policy_kwargs={"target": settings.target_busy},
            ),
        )
