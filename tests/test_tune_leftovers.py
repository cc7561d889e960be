"""HAProxy that has lost its Ray is ended; everything else is left alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from heliograph_tune.leftovers import HAPROXY, OF_SERVE, end_orphaned_proxies, serve_config

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def proxy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """Run something that looks like an HAProxy of Serve whose configuration says what is asked."""
    folder, content = request.param
    config = tmp_path / folder / "node" / "haproxy.cfg"
    config.parent.mkdir(parents=True)
    config.write_text(content)
    command = [HAPROXY, "-c", SLEEP, "-f", str(config)]
    with subprocess.Popen(command, executable=sys.executable) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("proxy", "is_ended"),
    [
        ((OF_SERVE, "backend http-search-1"), True),
        ((OF_SERVE, "frontend http_frontend"), True),  # killed before there was an application
        ((OF_SERVE, "backend http-heliograph"), False),
        (("etc", "frontend http_frontend"), False),
    ],
    indirect=["proxy"],
)
def test_an_orphan_of_the_search_is_ended(proxy: subprocess.Popen[bytes], is_ended: bool) -> None:
    end_orphaned_proxies("search-1")
    assert (proxy.poll() is not None) == is_ended


def test_other_commands_are_no_proxies() -> None:
    assert serve_config(psutil.Process().cmdline()) is None
    assert serve_config([]) is None
    assert serve_config(["/bin/haproxy", "-f"]) is None
    assert serve_config(["/bin/haproxy", "-f", f"/none/{OF_SERVE}/haproxy.cfg"]) is None
