"""A second HAProxy at the port of the endpoint.

Serve runs one HAProxy on a node. When that dies Serve takes seconds to notice and to start
another, and every client is refused meanwhile. Here is a second one with the same routes at the
same port: the system divides connections among those that listen, so when either dies no more is
lost than what it was at, and clients that connect again find the other.
"""

from __future__ import annotations

import fcntl
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.serve._private.constants import RAY_SERVE_HAPROXY_CONFIG_FILE_LOC

from heliograph.cluster import HAPROXY
from heliograph.haproxy import beside, has_routes, write_whole

LOOK_EVERY_S = 0.05
TRY_EVERY_S = 1.0
"""One that cannot start is not tried without a pause."""

END_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


@contextmanager
def second_haproxy() -> Iterator[None]:
    """Keep a second HAProxy beside that of this node for as long as the block runs."""
    second = SecondHAProxy(config_of_first())
    ended = threading.Event()
    follower = threading.Thread(target=look_after, args=(second, ended), daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


def config_of_first() -> Path:
    """Return where Serve keeps the configuration of this node's HAProxy."""
    file = Path(RAY_SERVE_HAPROXY_CONFIG_FILE_LOC)
    return file.parent / ray.get_runtime_context().get_node_id() / file.name


def look_after(second: SecondHAProxy, ended: threading.Event) -> None:
    """Look after it in one thread: the system ends it with the thread that has started it."""
    try:
        pause_s = LOOK_EVERY_S
        while not ended.wait(pause_s):
            try:
                second.look()
                pause_s = LOOK_EVERY_S
            except OSError as error:  # a full disk, say: the one that runs must not go for it
                logger.warning("the second HAProxy cannot follow the first: %s", error)
                pause_s = TRY_EVERY_S
    finally:
        second.end()


class SecondHAProxy:
    """Follows the configuration of the first one, and is started again if it has died.

    Args:
        first: Configuration of the first, which need not be there yet.
    """

    def __init__(self, first: Path) -> None:
        self._first = first
        self._config = first.with_name("second.cfg")
        self._socket = first.with_name("second.sock")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._followed = ""
        self._started = float("-inf")

    @property
    def pid(self) -> int | None:
        """The process that listens, if it runs."""
        newest = self._processes[-1:]
        return newest[0].pid if newest and newest[0].poll() is None else None

    def look(self) -> None:
        """Start it, or start it anew, if that is due.

        Without routes it stays as it is: the first one has only just come back.
        """
        wanted = beside(self._read(), self._socket)
        died = self.pid is None and time.monotonic() > self._started + TRY_EVERY_S
        if has_routes(wanted) and (died or wanted != self._followed):
            self._start(wanted)

    def end(self) -> None:
        """End it, and those before it that still have clients."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(END_TIMEOUT_S)

    def _read(self) -> str:
        """Read what the first was told last; nothing while there is nothing."""
        try:
            with Path(f"{self._first}.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)  # Serve writes under it
                return self._first.read_text()
        except FileNotFoundError:
            return ""

    def _start(self, wanted: str) -> None:
        """Start it; one that runs hands its port over and ends when its clients have gone."""
        before = self.pid
        takes_over = [] if before is None else ["-sf", str(before), "-x", str(self._socket)]
        write_whole(self._config, wanted)
        process = subprocess.Popen(
            [HAPROXY, "-db", "-f", str(self._config), *takes_over],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes = [one for one in self._processes if one.poll() is None] + [process]
        self._followed, self._started = wanted, time.monotonic()
