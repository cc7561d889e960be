"""Which Ray cluster is joined."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from ray._private import services

from heliograph import cluster
from heliograph.cluster import PORTS, REPLICA_PORTS, choose_ports, running_cluster
from heliograph.workspace import InputError


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silent() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


def recorded(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda temp_dir: address)


def test_a_cluster_that_was_written_down_and_answers_is_joined(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(listening, monkeypatch)
    assert running_cluster() == listening


def test_a_cluster_that_was_killed_is_not_waited_for(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(silent, monkeypatch)
    assert running_cluster() is None


def test_without_a_cluster_there_is_none_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(None, monkeypatch)
    assert running_cluster() is None


def test_the_cluster_that_is_named_comes_before_the_one_that_was_written_down(
    listening: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(silent, monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", listening)
    assert running_cluster() == listening


@pytest.mark.parametrize("named", ["nowhere", "127.0.0.1:"])
def test_a_name_that_is_no_address_is_refused(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named)
    with pytest.raises(InputError, match="of the form host:port"):
        running_cluster()


def test_a_named_cluster_that_does_not_answer_is_an_error_at_once(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", silent)
    with pytest.raises(InputError, match="no Ray cluster answers there"):
        running_cluster()


@pytest.fixture
def no_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PORTS, *REPLICA_PORTS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_ports")
def test_where_another_cluster_serves_all_ports_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {PORTS["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"], PORTS["RAY_SERVE_HAPROXY_STATS_PORT"] + 1}
    monkeypatch.setattr(cluster, "_is_free", lambda port: port not in taken)
    choose_ports()
    assert {name: int(os.environ[name]) - port for name, port in PORTS.items()} == dict.fromkeys(
        PORTS, 2
    )
    first, last = (int(os.environ[name]) for name in REPLICA_PORTS)
    assert (first, last) == (32_000, 32_999)


@pytest.mark.usefixtures("no_ports")
def test_ports_that_were_chosen_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "1234")
    monkeypatch.setattr(cluster, "_is_free", lambda port: True)
    choose_ports()
    assert os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] == "1234"
    assert os.environ["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] == "8500"
