"""What a sitting that was killed has left running, and would be in the way of the next one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

HAPROXY = "haproxy"
OF_SERVE = "haproxy-serve"
"""Folder in which Ray Serve keeps the configurations of HAProxy."""

BACKEND = "backend http-"
"""Begins what such a configuration says of an application."""

PATIENCE_S = 5.0


def end_orphaned_proxies(application: str) -> None:
    """End HAProxy of an application whose Ray has died with its driver.

    HAProxy is started by an actor and outlives it when that is killed; then it holds ports that
    every Serve of this machine wants. One that an actor looks after is left alone, and so is one
    of another application.
    """
    for process in psutil.process_iter(["cmdline"]):
        config = serve_config(process.info["cmdline"] or [])
        if config is None or (application not in config and BACKEND in config):
            continue
        with suppress(psutil.Error):  # it has ended by itself, or is somebody else's
            if not _is_looked_after(process):
                process.terminate()
                psutil.wait_procs([process], timeout=PATIENCE_S)


def serve_config(command: list[str]) -> str | None:
    """Return the configuration of Serve's HAProxy by a command line; None of anything else."""
    if not command or Path(command[0]).name != HAPROXY or "-f" not in command[:-1]:
        return None
    file = Path(command[command.index("-f") + 1])
    return file.read_text() if OF_SERVE in file.parts and file.is_file() else None


def _is_looked_after(process: psutil.Process) -> bool:
    parent = process.parent()
    return parent is not None and "".join(parent.cmdline()[:1]).startswith("ray::")
