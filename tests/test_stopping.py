"""How a command that has started Ray ends when it is told to."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.cluster

WAITING = """
import signal
from heliograph.cluster import ray_cluster
from heliograph_serve.commands import stopped_by_signal

with stopped_by_signal(), ray_cluster():
    print("waiting", flush=True)
    signal.pause()
print("stopped")
"""


def test_what_waits_beside_ray_cleans_up_at_sigterm_too() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"RAY_ADDRESS": "local"},
    )
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line == "waiting\n":
                    break
            process.terminate()
            rest, _ = process.communicate(timeout=60)
        finally:
            process.kill()  # has ended already, unless the test has failed
    assert process.returncode == 0, rest
    assert rest == "stopped\n"
