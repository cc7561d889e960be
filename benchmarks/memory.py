"""Memory of a process and all it has started, without counting shared pages twice."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

import psutil

REPLICAS = "replicas"
RAY = "Ray, dashboard and HAProxy"
DRIVER = "driver"


def memory_gib() -> dict[str, float]:
    """Return the proportional set size in GiB: this process, the replicas, all others below it.

    A process that ends while it is looked at counts nothing.
    """
    here = psutil.Process()
    sizes = defaultdict(float, {DRIVER: _pss_gib(here)})
    for process in here.children(recursive=True):
        try:
            is_replica = any("ServeReplica" in word for word in process.cmdline())
            sizes[REPLICAS if is_replica else RAY] += _pss_gib(process)
        except psutil.NoSuchProcess:
            continue
    return sizes


def tree_gib(process: psutil.Process) -> float:
    """Return the proportional set size in GiB of a process and all below it."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += _pss_gib(each)
    return total


def _pss_gib(process: psutil.Process) -> float:
    return float(process.memory_full_info().pss) / 2**30
