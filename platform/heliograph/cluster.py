"""The Ray cluster that this process works with: one that runs, or one of its own.

`heliograph` never starts a second cluster beside one it could join. Ray is imported where it is
used: this module is read by every command, and most of their start would go to Ray.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heliograph.workspace import InputError

HAPROXY = str(Path(sysconfig.get_path("scripts"), "heliograph-haproxy"))
"""The program of `heliograph.haproxy`, beside this Python."""

PROBE_S = 2.0
"""Time for a recorded cluster to accept a connection."""

SERVE_ENVIRONMENT = {
    # gRPC between deployments and user code on the replica's main loop: three times the
    # requests a second on a small machine. Blocking code must therefore use threads.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # replicas write no line a request, so what they do write need not wait for 999 others
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # requests enter through HAProxy instead of Serve's Python proxy
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # with what Serve leaves out: see heliograph.haproxy
    "RAY_SERVE_HAPROXY_BINARY_PATH": HAPROXY,
    # a thread of HAProxy serves more than all replicas of a node can, and there are two of it
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # a replica that has just died does not answer later either: try another one
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "1",
    # replicas count their requests themselves; else HAProxy writes a line for each, which a
    # Python process reads: as much work again as HAProxy itself does
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # what a replica was at when it died goes to another one: every request may come twice
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    # a HAProxy that has died is started again after three checks: seconds, not half a minute
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.25",
    # the controller looks whether all is as it should be ten times a second, all day; four will do
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
    # Ray starts workers at niceness 15; replicas that answer requests are not background work
    "RAY_worker_niceness": "0",
    # Ray looks for new log files ten times a second, all day, if there are fewer than this many
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
}
"""Switches of Ray and Serve; `cluster.yaml` exports the same where it starts Ray."""


PORTS = {
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500,
}
"""What Serve listens at on every node, beside the endpoint itself."""

REPLICA_PORTS = {
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": 30_000,
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": 30_999,
}
"""Where HAProxy finds replicas of the ingress: a thousand ports for each cluster."""

MOST_CLUSTERS = 20
"""Whose ports are told apart on one machine."""


def choose_ports() -> None:
    """Keep Serve's ports apart from those of another cluster on this machine.

    HAProxy would send requests to the other cluster's replicas, and to its fallback proxy, which
    listens at the same port; nothing would tell the answers apart.
    """
    for shift in range(MOST_CLUSTERS):
        if all(_is_free(port + shift) for port in PORTS.values()):
            break
    ports = {name: port + shift for name, port in PORTS.items()}
    ports |= {name: port + 1000 * shift for name, port in REPLICA_PORTS.items()}
    for name, port in ports.items():
        os.environ.setdefault(name, str(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


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
    running = running_cluster()
    if running is None:
        choose_ports()
    ended_by = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=running or "local",
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    if callable(ended_by) and threading.current_thread() is threading.main_thread():
        # Ray puts its own in its place, with which a graph would not be taken down
        signal.signal(signal.SIGTERM, ended_by)
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
        return recorded if recorded and answers(recorded) else None
    if named not in ("auto", "local") and not answers(named):
        raise InputError(
            f"RAY_ADDRESS is {named}, but no Ray cluster answers there; start it "
            "(`ray start --head`), or unset RAY_ADDRESS to use this machine alone"
        )
    return named


def answers(address: str) -> bool:
    """Tell whether something listens where the head of a cluster is to be.

    Raises:
        InputError: The address is not of the form host:port.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        raise InputError(f"RAY_ADDRESS is {address!r}, but an address is of the form host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S).close()
    except OSError:
        return False
    return True
