"""The Ray cluster that this process works with: one that runs, or one of its own.

`heliograph` never starts a second cluster beside one it could join. Ray is imported where it is
used: this module is read by every command, and most of their start would go to Ray.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from heliograph.workspace import InputError

PROBE_S = 2.0
"""Time for a recorded cluster to accept a connection."""

SERVE_ENVIRONMENT = {
    # gRPC between deployments and user code on the replica's main loop: three times the
    # requests a second on a small machine. Blocking code must therefore use threads.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # requests enter through HAProxy instead of Serve's Python proxy
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # replicas count their requests themselves; else HAProxy writes a line for each, which a
    # Python process reads: as much work again as HAProxy itself does
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # Ray starts workers at niceness 15; replicas that answer requests are not background work
    "RAY_worker_niceness": "0",
}
"""Switches of Ray and Serve; `cluster.yaml` exports the same where it starts Ray."""


def choose_fast_serve() -> None:
    """Set Serve's switches for this process and a cluster it starts, where they are not set."""
    for name, value in SERVE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_cluster(dashboard: bool = False) -> Iterator[None]:
    """Join the running Ray cluster, or start one for as long as the block runs.

    Args:
        dashboard: Whether a cluster that is started here gets a dashboard, on the loopback.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    connect(dashboard)
    try:
        yield
    finally:
        ray.shutdown()


def connect(dashboard: bool) -> None:
    """Join the running cluster if there is one, else start one on this machine.

    Raises:
        InputError: `RAY_ADDRESS` names a cluster that does not answer.
    """
    import ray
    import ray.data

    choose_fast_serve()
    # a cluster of our own ends with us: nobody waits for its replicas to drain
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")
    ray.init(
        address=running_cluster() or "local",
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    # progress bars and plans of Ray Data would come between those of the stages
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def has_cluster() -> bool:
    """Return whether there is a cluster that `ray_cluster` would join.

    Raises:
        InputError: `RAY_ADDRESS` names a cluster that does not answer.
    """
    import ray

    return ray.is_initialized() or running_cluster() is not None


def running_cluster() -> str | None:
    """Return the address of the cluster to join: what RAY_ADDRESS names, or `ray start` wrote down.

    Ray itself waits for minutes for a cluster that was killed and is still written down.

    Raises:
        InputError: `RAY_ADDRESS` names a cluster that does not answer.
    """
    from ray._private.services import find_bootstrap_address

    named = os.environ.get("RAY_ADDRESS")
    if not named:
        recorded = find_bootstrap_address(temp_dir=None)
        return recorded if recorded and _answers(recorded) else None
    if named not in ("auto", "local") and not _answers(named):
        raise InputError(
            f"RAY_ADDRESS is {named}, but no Ray cluster answers there; start it "
            "(`ray start --head`), or unset RAY_ADDRESS to use this machine alone"
        )
    return named


def _answers(address: str) -> bool:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        raise InputError(f"RAY_ADDRESS is {address!r}, but an address is of the form host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S).close()
    except OSError:
        return False
    return True
