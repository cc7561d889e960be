"""HAProxy as the graph has it started: real ones, with the configuration that Serve writes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import httpx
import psutil
import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from heliograph.cluster import HAPROXY
from heliograph.config import ServeConfig
from heliograph.haproxy import NOT_SHARED, as_needed, beside, has_routes
from heliograph.workspace import InputError
from heliograph_serve import graph, second_haproxy
from heliograph_serve.second_haproxy import SecondHAProxy, look_after
from processes import alive, free_port, wait_until

PATIENCE_S = 10.0


class Answering(BaseHTTPRequestHandler):
    """A replica that answers with the port it listens at."""

    def do_GET(self) -> None:
        body = str(self.connection.getsockname()[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def replica() -> Iterator[int]:
    yield from answering()


@pytest.fixture
def other_replica() -> Iterator[int]:
    yield from answering()


def answering() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server.server_port
        server.shutdown()


@dataclass
class Node:
    """Where Serve would run a HAProxy."""

    folder: Path
    port: int = field(default_factory=free_port)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "haproxy.cfg"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def tell(self, *replicas: int) -> str:
        """Write what Serve would for an application with these replicas; returns it."""
        settings = HAProxyConfig(
            http_options=HTTPOptions(host="127.0.0.1", port=self.port),
            socket_path=str(self.folder / "admin.sock"),
            server_state_base=str(self.folder),
            server_state_file=str(self.folder / "server-state"),
            stats_port=free_port(),
            metrics_port=free_port(),
        )
        servers = [ServerConfig(f"replica-{port}", "127.0.0.1", port) for port in replicas]
        shop = BackendConfig("http-shop", "/", servers=servers, app_name="shop")
        serve = HAProxyApi(settings, {"http-shop": shop} if replicas else {}, str(self.config))
        serve._generate_config_file_internal()
        return self.config.read_text()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the first HAProxy, as Serve does."""
        self.started.append(
            subprocess.Popen(
                [HAPROXY, "-db", "-f", str(self.config), NOT_SHARED], stderr=subprocess.DEVNULL
            )
        )
        wait_until((self.folder / "admin.sock").exists)
        return self.started[-1]


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("n"))
    yield node
    for process in node.started:
        process.kill()
        process.wait()


@pytest.fixture
def second(node: Node) -> Iterator[SecondHAProxy]:
    second = SecondHAProxy(node.config)
    yield second
    second.end()


def get(url: str) -> httpx.Response:
    """Ask through a new connection, without reading certificates for nothing."""
    return httpx.get(url, verify=False)


def answers(url: str) -> bool:
    try:
        return get(url).status_code == 200
    except httpx.ConnectError:
        return False


def test_it_listens_at_the_endpoint_once_it_has_routes(node: Node, replica: int) -> None:
    node.tell()
    node.start()
    with pytest.raises(httpx.ConnectError):
        get(node.url)
    node.tell(replica)
    node.start()
    wait_until(lambda: answers(node.url))


@pytest.mark.parametrize("which", ["first", "second"])
def test_whichever_dies_the_other_answers(
    which: str, node: Node, second: SecondHAProxy, replica: int
) -> None:
    node.tell(replica)
    first = node.start()
    second.look()
    wait_until(lambda: answers(node.url))
    wait_until((node.folder / "second.sock").exists)
    assert second.pid is not None
    os.kill(first.pid if which == "first" else second.pid, signal.SIGKILL)
    wait_until(lambda: first.poll() is not None or second.pid is None)
    assert [get(node.url).status_code for _ in range(40)] == [200] * 40


def test_one_that_has_died_is_started_again(
    node: Node, second: SecondHAProxy, replica: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_haproxy, "TRY_EVERY_S", 0.01)
    node.tell(replica)
    second.look()
    assert second.pid is not None
    os.kill(second.pid, signal.SIGKILL)
    wait_until(lambda: second.pid is None)

    def is_back() -> bool:
        second.look()
        return second.pid is not None

    wait_until(is_back)
    wait_until(lambda: answers(node.url))


def test_new_replicas_are_followed_without_a_gap(
    node: Node, second: SecondHAProxy, replica: int, other_replica: int
) -> None:
    node.tell(replica)
    second.look()
    wait_until(lambda: answers(node.url))
    node.tell(other_replica)
    second.look()
    wait_until(lambda: get(node.url).text == str(other_replica))
    assert {get(node.url).text for _ in range(20)} == {str(other_replica)}


def test_it_goes_on_while_the_first_has_only_come_back(
    node: Node, second: SecondHAProxy, replica: int
) -> None:
    node.tell(replica)
    second.look()
    wait_until(lambda: answers(node.url))
    before = second.pid
    node.tell()
    second.look()
    assert second.pid == before
    assert answers(node.url)


def test_it_is_not_started_anew_for_what_the_first_makes_of_its_own_configuration(
    node: Node, second: SecondHAProxy, replica: int
) -> None:
    written = node.tell(replica)
    second.look()
    before = second.pid
    node.config.write_text(as_needed(written))
    second.look()
    assert as_needed(written) != written
    assert second.pid == before


def test_without_a_configuration_there_is_nothing_to_start(second: SecondHAProxy) -> None:
    second.look()
    assert second.pid is None


def test_it_goes_on_where_it_cannot_follow_for_a_while(
    node: Node, second: SecondHAProxy, replica: int
) -> None:
    node.tell(replica)
    second.look()
    wait_until(lambda: answers(node.url))
    pid = second.pid
    blocked = node.config.with_name("second.cfg")
    blocked.unlink()
    (blocked / "in the way").mkdir(parents=True)
    node.tell(replica, replica + 1)
    ended = Event()
    follower = Thread(target=look_after, args=(second, ended), daemon=True)
    follower.start()
    time.sleep(0.3)
    is_as_before = pid is not None and second.pid == pid and answers(node.url)
    shutil.rmtree(blocked)
    wait_until(lambda: second.pid not in (None, pid))
    ended.set()
    follower.join()
    assert is_as_before


def test_it_ends_with_whoever_started_it(node: Node, replica: int) -> None:
    node.tell(replica)
    starting = (
        "import subprocess, sys, time\n"
        "process = subprocess.Popen(sys.argv[1:])\n"
        "print(process.pid, flush=True)\n"
        "process.wait()\n"
    )
    command = [sys.executable, "-c", starting, HAPROXY, "-db", "-f", str(node.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        haproxy = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: answers(node.url))
        parent.kill()
    assert not alive([haproxy], PATIENCE_S)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such policy")
def test_it_interrupts_nobody(node: Node, second: SecondHAProxy, replica: int) -> None:
    node.tell(replica)
    first = node.start()
    second.look()
    wait_until((node.folder / "second.sock").exists)
    assert second.pid is not None
    assert [os.sched_getscheduler(pid) for pid in (first.pid, second.pid)] == [os.SCHED_BATCH] * 2


def test_nobody_is_told_of_each_request_unless_asked(
    node: Node, replica: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = node.tell(replica)
    assert "    log 127.0.0.1:514" in written
    assert "127.0.0.1:514" not in as_needed(written)
    assert as_needed(as_needed(written)) == as_needed(written)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_LOG_TARGET", "127.0.0.1:514")
    assert as_needed(written) == written


def test_the_second_has_the_routes_and_no_other_port(node: Node, replica: int) -> None:
    written = node.tell(replica)
    second = beside(written, Path("/second.sock"))
    assert has_routes(second)
    ports = [line.split(":")[-1] for line in second.splitlines() if " bind " in line]
    assert ports == [str(node.port)]
    assert "stats socket /second.sock mode 666" in second


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/heliograph-haproxy")
    with pytest.raises(InputError, match=r"/nowhere/heliograph-haproxy .*`pip install` it again"):
        graph.start_serve(ServeConfig())
