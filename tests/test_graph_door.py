"""The door of a running graph: through HAProxy, with real keys, bodies, overload and metrics."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import ray
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from ray.serve._private.logging_utils import get_serve_logs_dir

from graphs import serving
from heliograph.bundle import Bundle
from heliograph.config import LimitsConfig
from heliograph.keys import Scope, add_key, remove_key
from heliograph.workspace import InputError
from heliograph_serve.access import SCOPE_OF
from heliograph_serve.graph import running_graph
from heliograph_serve.status import graph_at
from heliograph_serve.try_it import page
from processes import replicas

pytestmark = pytest.mark.cluster

BODY_BYTES = 200_000
UNDER_WAY = 8


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    return {"file": str(file)} | {scope: add_key(file, scope, [scope]) for scope in Scope}


@pytest.fixture(scope="module")
def url(
    bundle: Bundle, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with serving(
        bundle,
        deadline_ms=2000.0,
        keys=Path(keys["file"]),
        # whoever tries every route changes items too
        store=f"sqlite:///{tmp_path_factory.mktemp('store')}/events.sqlite",
        limits=LimitsConfig(under_way=UNDER_WAY, body_bytes=BODY_BYTES),
    ) as url:
        yield url


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def ask(url: str, secret: str, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/recommendations",
        json={"user_id": "user-3", "n": 3},
        headers=bearer(secret) | headers,
        timeout=30,
    )


def eventually(what: Callable[[], bool], within_s: float = 20) -> None:
    give_up = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_keys_open_what_their_scopes_say(url: str, keys: dict[str, str]) -> None:
    assert ask(url, keys["read"]).json()["tier"] == "generative"
    refused = ask(url, keys["write"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    unknown = ask(url, "hg_no")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (401, "unauthorized")
    assert httpx.get(f"{url}/v1/status").status_code == 401
    assert httpx.get(f"{url}/healthz").status_code == 200
    assert httpx.get(f"{url}/readyz").status_code == 200


def test_the_page_to_try_it_needs_no_key_and_is_in_the_log(url: str) -> None:
    shown = httpx.get(f"{url}/")
    assert shown.status_code == 200 and shown.text == page()
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    request_id = shown.headers["x-request-id"]
    eventually(lambda: request_id in {line["request_id"] for line in log_lines()})
    (line,) = [line for line in log_lines() if line["request_id"] == request_id]
    assert (line["route"], line["status"]) == ("GET /", 200)


def test_a_new_key_counts_within_seconds_and_a_removed_one_no_more(
    url: str, keys: dict[str, str]
) -> None:
    secret = add_key(Path(keys["file"]), "guest", [Scope.READ])
    eventually(lambda: ask(url, secret).status_code == 200, within_s=5)
    remove_key(Path(keys["file"]), "guest")
    eventually(lambda: ask(url, secret).status_code == 401, within_s=5)


def raw(url: str, head: str, *parts: bytes) -> tuple[int, int]:
    """Send a request byte by byte; returns the status and the bytes that were taken."""
    address = httpx.URL(url)
    sent = 0
    with socket.create_connection((address.host, address.port or 80), timeout=20) as line:
        line.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        line.settimeout(0.2)
        answer = b""
        for part in (*parts, b""):
            try:
                line.sendall(part)
                sent += len(part)
            except OSError:
                break
            try:
                answer += line.recv(65536)
                break
            except TimeoutError:
                continue
        line.settimeout(20)
        while b"\r\n" not in answer:
            answer += line.recv(65536)
    return int(answer.split()[1]), sent


def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    url: str, keys: dict[str, str]
) -> None:
    head = (
        f"POST /v1/events HTTP/1.1\nhost: shop\nauthorization: Bearer {keys['write']}\n"
        "content-type: application/json\n"
    )
    announced = raw(url, f"{head}content-length: 99999999", *[b" " * 10_000] * 100)
    assert announced[0] == 413 and announced[1] <= 10_000
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    chunked = raw(url, f"{head}transfer-encoding: chunked", *[chunk] * 100)
    assert chunked[0] == 413 and chunked[1] <= 2 * BODY_BYTES
    assert ask(url, keys["read"]).is_success


def test_more_than_the_bound_gets_503_at_once_and_recovery_is_immediate(
    url: str, keys: dict[str, str]
) -> None:
    head = (
        f"POST /v1/events HTTP/1.1\nhost: shop\nauthorization: Bearer {keys['write']}\n"
        "content-type: application/json\ncontent-length: 100\n\n"
    ).replace("\n", "\r\n")
    address = httpx.URL(url)
    held = []
    for _ in range(UNDER_WAY):  # requests whose bodies do not come
        line = socket.create_connection((address.host, address.port or 80))
        line.sendall(head.encode())
        held.append(line)
    eventually(lambda: ask(url, keys["read"]).status_code == 503, within_s=5)
    started = time.monotonic()
    refused = ask(url, keys["read"])
    assert time.monotonic() - started < 1
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] == "1"
    assert httpx.get(f"{url}/healthz").is_success
    for line in held:
        line.close()
    eventually(lambda: ask(url, keys["read"]).is_success, within_s=2)


def test_a_client_that_hangs_up_is_noticed_while_its_request_waits(
    url: str, keys: dict[str, str]
) -> None:
    (rank,) = replicas("Rank")
    left = sum(line["status"] == 499 for line in log_lines())
    os.kill(rank.pid, signal.SIGSTOP)
    try:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 80)) as client:
            body = json.dumps({"user_id": "user-5", "deadline_ms": 9_000}).encode()
            head = (
                f"POST /v1/recommendations HTTP/1.1\r\nHost: shop\r\n"
                f"Authorization: Bearer {keys['read']}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            client.sendall(head.encode() + body)
            time.sleep(0.5)  # nothing tells from outside that it waits for the item LM
        eventually(lambda: sum(line["status"] == 499 for line in log_lines()) > left, within_s=5)
    finally:
        os.kill(rank.pid, signal.SIGCONT)
    eventually(lambda: ask(url, keys["read"]).json()["tier"] == "generative")


def test_a_flood_is_answered_or_refused_and_never_fails(url: str, keys: dict[str, str]) -> None:
    with ThreadPoolExecutor(40) as pool:
        replies = list(pool.map(lambda _: ask(url, keys["read"]), range(200)))
    statuses = Counter(reply.status_code for reply in replies)
    assert set(statuses) <= {200, 503} and statuses[200] >= UNDER_WAY
    assert ask(url, keys["read"]).is_success


def log_lines() -> list[dict[str, Any]]:
    files = Path(get_serve_logs_dir()).glob("requests_heliograph_*.jsonl")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_the_request_id_of_an_answer_is_found_in_the_log(url: str, keys: dict[str, str]) -> None:
    given = ask(url, keys["read"], **{"x-request-id": 'mine "1" \x7f'[:8]})
    assert given.headers.get_list("x-request-id") == ['mine "1"']
    made = ask(url, keys["read"]).headers["x-request-id"]
    wanted = {'mine "1"', made}
    eventually(lambda: wanted <= {line["request_id"] for line in log_lines()})
    (line,) = [line for line in log_lines() if line["request_id"] == made]
    assert (line["status"], line["tier"], line["key"]) == (200, "generative", "read")
    assert "user-3" not in json.dumps(log_lines())


HOSTILE = [
    "'; DROP TABLE events; --",
    '" OR 1=1 --',
    "../../../etc/passwd",
    "..%2f..%2fhealthz",
    "a/b/../events",
    "${jndi:ldap://evil}",
    "{{7*7}}",
    "%00%0d%0aset-cookie: a=b",
    "<script>alert(1)</script>",
    "-rf",
]


@pytest.mark.parametrize("user", HOSTILE)
def test_an_id_is_opaque_whatever_it_looks_like(url: str, keys: dict[str, str], user: str) -> None:
    event = {"user_id": user, "item_id": "item-005", "event_id": f"hostile {user}"}
    kept = httpx.post(f"{url}/v1/events", json=event, headers=bearer(keys["write"]))
    assert kept.status_code == 200 and kept.json()["event_ids"] == [event["event_id"]]
    path = f"{url}/v1/users/{quote(user, safe='')}"
    shown = httpx.get(f"{path}/events", headers=bearer(keys["admin"])).json()
    assert shown["user_id"] == user
    assert [one["event_id"] for one in shown["events"]] == [event["event_id"]]
    asked = httpx.post(
        f"{url}/v1/recommendations", json={"user_id": user}, headers=bearer(keys["read"])
    ).json()
    assert "item-005" not in {item["item_id"] for item in asked["items"]}
    receipt = httpx.delete(path, headers=bearer(keys["admin"])).json()
    assert (receipt["user_id"], receipt["store_events"]) == (user, 1)


@pytest.mark.parametrize("user", ["a\nb", "a\x00b", "\x1b[31m", "\u202e", " ", "x" * 513])
def test_an_id_that_cannot_be_printed_is_refused(url: str, keys: dict[str, str], user: str) -> None:
    replies = [
        httpx.post(
            f"{url}/v1/recommendations", json={"user_id": user}, headers=bearer(keys["read"])
        ),
        httpx.post(
            f"{url}/v1/events",
            json={"user_id": user, "item_id": "item-005"},
            headers=bearer(keys["write"]),
        ),
        httpx.delete(f"{url}/v1/users/{quote(user, safe='')}", headers=bearer(keys["admin"])),
    ]
    assert [reply.status_code for reply in replies[:2]] == [422, 422]
    assert replies[2].status_code in (404, 422)  # no route matches a path with a line break


@pytest.mark.parametrize(
    "header",
    [
        b"x-request-id: a\nset-cookie: b=c",
        b"x-request-id: " + b"a" * 5000,
        b"authorization: Bearer \xff",
        b"content-length: -1",
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: 5\r\ntransfer-encoding: chunked",
    ],
)
def test_no_header_makes_the_server_fail_or_say_what_it_did_not_mean(
    url: str, header: bytes
) -> None:
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80), timeout=20) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nhost: shop\r\n" + header + b"\r\n\r\n")
        answer = line.recv(65536)
    assert 200 <= int(answer.split()[1]) < 500
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"\nset-cookie" not in head and b"traceback" not in answer.lower()


def test_no_request_that_fits_the_openapi_document_fails_and_every_answer_fits_it(
    url: str, keys: dict[str, str]
) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    secret = add_key(Path(keys["file"]), "fuzz", list(Scope))
    eventually(lambda: ask(url, secret).status_code == 200, within_s=5)
    described = schemathesis.openapi.from_url(f"{url}/openapi.json")
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.response_schema_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.status_code_conformance,
    ]
    operations = [result.ok() for result in described.get_all_operations()]
    assert len(operations) == len(SCOPE_OF) - 5  # all but the pages for people
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @settings(
                max_examples=30,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            )
            @given(case=operation.as_strategy(mode))
            def holds(case: Any) -> None:
                reply = case.call(base_url=url, headers=bearer(secret))
                case.validate_response(reply, checks=checks)

            with suppress(Unsatisfiable):  # of what has no parameters, nothing can be wrong
                holds()


def exported() -> str:
    """Return what Prometheus would read from this machine."""
    texts = []
    for node in ray.nodes():
        endpoint = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        texts.append(httpx.get(endpoint, timeout=10).text)
    return "\n".join(texts)


def test_every_metric_of_the_dashboard_is_exported(url: str, keys: dict[str, str]) -> None:
    ask(url, keys["read"])
    httpx.post(
        f"{url}/v1/events",
        json={"user_id": "metrics", "item_id": "item-001"},
        headers=bearer(keys["write"]),
    )
    dashboard = Path(__file__).parent.parent / "serve_apps" / "grafana" / "heliograph.json"
    named = set(re.findall(r"\bray_\w+", dashboard.read_text()))
    assert named

    def missing() -> set[str]:
        return named - set(re.findall(r"^(\w+)[{ ]", exported(), re.MULTILINE))

    try:
        eventually(lambda: not missing(), within_s=60)
    except AssertionError:
        assert not missing()
    assert re.search(
        r'ray_heliograph_requests_total\{.*request_route="POST /v1/recommendations".*'
        r'status="200"',
        exported(),
    )


def test_the_status_over_http_is_that_of_the_ingress_that_answers(
    url: str, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(url, keys["read"])
    monkeypatch.setenv("HELIOGRAPH_KEY", keys["read"])
    found = graph_at(url)
    assert found.is_ready
    (ingress,) = found.ingresses
    assert ingress["answers"]["generative"] >= 1


def test_the_command_finds_the_graph_from_another_process(url: str) -> None:
    command = "import typer; from heliograph_serve.status import status; typer.run(status)"
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", command],
        env=os.environ | {"RAY_ADDRESS": address, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for fact in ("Recommend", "Retrieve", "Rank", "1 running", "generative", "small-shop"):
        assert fact in done.stdout


def test_an_endpoint_without_keys_does_not_listen_to_the_network(bundle: Bundle) -> None:
    exposed = bundle.config.serve.model_copy(update={"host": "0.0.0.0"})
    with (
        pytest.raises(InputError, match="can be reached from other machines"),
        running_graph(bundle.folder, exposed),
    ):
        pass
