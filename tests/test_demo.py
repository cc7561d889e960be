"""The demo as a new user runs it: a process of its own, from the files to Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from processes import free_port

pytestmark = pytest.mark.cluster

DEMO = Path(__file__).parent.parent / "examples" / "movielens" / "demo.py"
MARK = "HELIOGRAPH_TEST_RUN"
PATIENCE_S = 500.0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@contextmanager
def demo(workspace: Path, mark: str, port: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    settings = [
        f"workspace={workspace}",
        f"serve.port={port}",
        "train.epochs=2",
        "ranking.min_users=1000",  # or it would be seen that an item LM of two epochs is no help
    ]
    overrides = [part for setting in settings for part in ("--set", setting)]
    process = subprocess.Popen(
        [sys.executable, str(DEMO), *overrides, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {MARK: mark, "COLUMNS": "120"},
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()  # has ended already, unless the test has failed


def left_over(mark: str) -> list[str]:
    """Describe the processes that a run has started and not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:200])
        except psutil.Error:
            continue  # it ended meanwhile
    return found


def assert_nothing_is_left(mark: str, port: int) -> None:
    give_up = time.monotonic() + 30
    while (running := left_over(mark)) and time.monotonic() < give_up:
        time.sleep(0.2)  # Ray's own processes end a moment after their driver
    assert not running
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the port is still open"


def test_the_demo_prints_recommendations_and_leaves_nothing_behind(workspace: Path) -> None:
    mark, port = uuid.uuid4().hex, free_port()
    with demo(workspace, mark, port, "--once") as process:
        printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, printed
    assert "1,682 items" in printed and "100,000 events" in printed
    assert "tier: generative" in printed
    assert "pipeline" in printed and "popularity" in printed
    assert re.search(r"│\s+10 │", printed), printed  # ten recommendations
    assert f"http://127.0.0.1:{port}/docs" in printed
    assert_nothing_is_left(mark, port)


def test_the_second_demo_reuses_everything_and_stops_on_ctrl_c(workspace: Path) -> None:
    mark, port = uuid.uuid4().hex, free_port()
    with demo(workspace, mark, port) as process:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "Ctrl-C" in line:
                break
        assert printed.count("✓") == printed.count("unchanged, reused") > 0, printed
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest and "stopped" in rest
    assert_nothing_is_left(mark, port)
