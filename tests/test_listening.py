"""Nothing listens beyond this machine unless keys or the operator say so; what `status` shows."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from heliograph import client
from heliograph.client import EndpointError
from heliograph.config import ServeConfig
from heliograph.keys import Scope, add_key
from heliograph.workspace import InputError
from heliograph_serve.listening import is_loopback, require_protection
from heliograph_serve.status import Deployed, GraphStatus, tables


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_the_loopback_needs_no_keys(host: str, tmp_path: Path) -> None:
    assert is_loopback(host)
    require_protection(ServeConfig(), host, tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "shop.example", "127.0.0.1.evil.io"])
def test_any_other_address_needs_keys_or_a_word(host: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="heliograph keys add"):
        require_protection(ServeConfig(), host, tmp_path)
    require_protection(ServeConfig(open_to_network=True), host, tmp_path)
    add_key(tmp_path / "keys.json", "shop", [Scope.READ])
    require_protection(ServeConfig(keys=Path("keys.json")), host, tmp_path)


def test_a_keys_file_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no keys file at"):
        require_protection(ServeConfig(keys=Path("keys.json")), "127.0.0.1", tmp_path)


def test_the_commands_send_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def request(method: str, url: str, **options: Any) -> httpx.Response:
        sent.append(options["headers"])
        return httpx.Response(503, json={"ready": False})

    monkeypatch.setattr(httpx, "request", request)
    monkeypatch.delenv("HELIOGRAPH_KEY", raising=False)
    assert client.readiness("http://shop") == {"ready": False}
    monkeypatch.setenv("HELIOGRAPH_KEY", "hg_x")
    with pytest.raises(EndpointError):
        client.status("http://shop")
    assert sent == [None, {"authorization": "Bearer hg_x"}]


def ingress(**changes: Any) -> dict[str, Any]:
    return {
        "bundle": "shop-0123",
        "version": "0.1.0",
        "uptime_s": 5400.0,
        "answers": {"generative": 7, "retrieval": 2, "popular": 1},
        "latency_ms": {"p50": 12.0, "p95": 20.25, "p99": 31.0},
        "experiment": None,
        "exposures": {"kept": 0, "erased": 0, "waiting": 0, "lost": 0},
        "candidate_cache": {"hits": 3, "misses": 1},
        "stages": {"retrieve": "closed", "rank": "closed", "history": "closed"},
        "waiting": {"retrieve": 0, "rank": 4},
    } | changes


def shown(status: GraphStatus) -> str:
    written = StringIO()
    console = Console(file=written, width=120)
    for table in tables(status):
        console.print(table)
    return written.getvalue()


def test_the_status_shows_every_deployment_and_every_replica_of_the_ingress() -> None:
    down = {"retrieve": "closed", "rank": "open", "history": "open"}
    text = shown(
        GraphStatus(
            is_ready=False,
            deployments=(Deployed("Rank", "UNHEALTHY", {"RUNNING": 1, "STARTING": 2}),),
            ingresses=(ingress(), ingress(stages=down, latency_ms={}, bundle="shop-4567")),
        )
    )
    for fact in ("Rank", "unhealthy", "1 running, 2 starting", "shop-0123", "shop-4567", "1.5 h"):
        assert fact in text
    assert "20.2 ms" in text and "75%" in text and "4 rank" in text and "rank, history" in text
    assert "yes" in text and "no" in text


def test_a_fresh_replica_has_no_figures_yet() -> None:
    fresh = ingress(latency_ms={}, candidate_cache={"hits": 0, "misses": 0})
    text = shown(GraphStatus(True, (), (fresh,)))
    assert "75%" not in text and "nan" not in text
    assert shown(GraphStatus(False, (), ())) == ""
