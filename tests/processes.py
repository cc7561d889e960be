"""Processes and ports of the graphs that tests start."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

REPLICA = "ray::ServeReplica:heliograph:"
"""Begins what Ray calls the process of a replica; the name of its deployment follows."""


KEPT_FREE = range(25_000, 30_000)
"""Ports that the system gives to nobody who connects somewhere: such a one may be taken before a
graph, which takes half a minute to start, listens there."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    while True:
        port = secrets.choice(KEPT_FREE)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def replicas(deployment: str) -> list[psutil.Process]:
    """Find the processes of a deployment's replicas among our own descendants."""
    return [process for process in descendants() if title(process).startswith(REPLICA + deployment)]


def haproxies() -> list[psutil.Process]:
    """Find the HAProxies among our own descendants."""
    return [one for one in descendants() if Path(title(one).partition(" ")[0]).name == "haproxy"]


def descendants(of: int | None = None) -> list[psutil.Process]:
    """Return the processes below one, by default below this one."""
    return psutil.Process(of).children(recursive=True)


def title(process: psutil.Process) -> str:
    """Return the command line; empty for a process that has ended.

    What an ended process leaves until its parent asks for it, a zombie, may stay for as long as
    the tests run.
    """
    try:
        return " ".join(process.cmdline()) if process.is_running() else ""
    except psutil.Error:
        return ""


def has_closed_everything(process: psutil.Process) -> bool:
    """Tell whether a process that was killed listens no more: that takes longer than its death."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Return when something holds; fail if it does not for a while."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"still not so after {within_s:g} s"
        time.sleep(0.01)


def alive(processes: list[psutil.Process], within_s: float = 30.0) -> list[psutil.Process]:
    """Return which of the processes have not ended within a while."""
    give_up = time.monotonic() + within_s
    while (left := [one for one in processes if title(one)]) and time.monotonic() < give_up:
        time.sleep(0.05)
    return left
