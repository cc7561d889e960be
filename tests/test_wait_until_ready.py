"""How long a graph that has been started is waited for, by what its endpoint says of itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from heliograph.workspace import InputError
from heliograph_serve import graph
from heliograph_serve.graph import wait_until_ready


@contextmanager
def endpoint(*answers: dict[str, bool]) -> Iterator[str]:
    """Say one after the other which stages answer, and the last for ever; yields the URL."""
    waiting = list(answers)

    class Readiness(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stages = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"ready": True, "stages": stages}).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Readiness) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_graph_is_waited_for_until_every_stage_answers() -> None:
    starting = {"retrieve": False, "rank": False, "history": True}
    with endpoint(starting, starting | {"retrieve": True}, dict.fromkeys(starting, True)) as url:
        wait_until_ready(url)


def test_a_store_that_does_not_answer_is_said_soon_and_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graph, "STORE_PATIENCE_S", 0.3)
    with (
        endpoint({"retrieve": True, "rank": True, "history": False}) as url,
        pytest.raises(InputError, match="event store has not answered .*--store"),
    ):
        wait_until_ready(url)


def test_a_store_that_comes_up_a_little_later_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "STORE_PATIENCE_S", 5.0)
    late = {"retrieve": True, "rank": True, "history": False}
    with endpoint(late, late, dict.fromkeys(late, True)) as url:
        wait_until_ready(url)
